"""Background threads that others depend on: whatever one piece of their work raises, the thread goes on.

What was survived is logged without its traceback, since a message or a local may hold a secret, and counted.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import PurePath
from typing import Final, Self

import structlog
from redis.exceptions import ResponseError

from mirror.errors import MirrorError, quoted

_LOG = structlog.get_logger(__name__)
_LOCK: Final = threading.Lock()
_FAULTS: Final[Counter[str]] = Counter()


def faults() -> Mapping[str, int]:
    """How many exceptions were survived so far, by the work that raised them."""
    with _LOCK:
        return dict(_FAULTS)


def note_fault(work: str, error: BaseException, **facts: object) -> None:
    """Log and count an exception that *work* goes on after. *facts* say what it concerned, such as a task's id."""
    with _LOCK:
        _FAULTS[work] += 1
    _LOG.error("an unexpected error was survived", work=work, fault=_reason(error), at=_place(error), **facts)


@contextmanager
def surviving(work: str, **facts: object) -> Iterator[None]:
    """Go on after the block, whatever it raises."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 - what others depend on goes on after any fault of one
        note_fault(work, error, **facts)


class BackgroundLoop:
    """A daemon thread that calls *step* every *seconds* until it returns False, or until `end`.

    A step that raises counts as one that returned True.
    """

    def __init__(self, name: str, seconds: float, step: Callable[[], bool]) -> None:
        self._name = name
        self._seconds = seconds
        self._step = step
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> Self:
        self._thread.start()
        return self

    def end(self) -> None:
        """Return when the thread has ended; a step that is under way is waited for."""
        self._ended.set()
        self._thread.join()

    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def _run(self) -> None:
        goes_on = True
        while goes_on and not self._ended.wait(self._seconds):
            with surviving(self._name):
                goes_on = self._step()


def _reason(error: BaseException) -> str:
    """Redis' own words name a type or a line of a script, and ours are made for users. Others may print anything."""
    if isinstance(error, MirrorError):
        return error.message
    name = type(error).__name__
    return f"{name}: {quoted(str(error))}" if isinstance(error, ResponseError) else name


def _place(error: BaseException) -> str:
    """The file and the line that raised it, or our last one on the way to a library that did."""
    place, trace = "", error.__traceback__
    while trace is not None:
        path = PurePath(trace.tb_frame.f_code.co_filename)
        if not place or "site-packages" not in path.parts:
            place = f"{path.name}:{trace.tb_lineno}"
        trace = trace.tb_next
    return place
