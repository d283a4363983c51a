"""Background threads that go on after any exception, because other work depends on them.

Each such exception is counted, and logged without a traceback: its message and its local variables may contain secrets.
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


def fault_counts() -> Mapping[str, int]:
    """Return the number of exceptions so far, by the work that raised them."""
    with _LOCK:
        return dict(_FAULTS)


def record_fault(work: str, error: BaseException, **facts: object) -> None:
    """Count and log an exception after which *work* goes on. *facts* say what it was about, such as a task's id."""
    with _LOCK:
        _FAULTS[work] += 1
    _LOG.error("an unexpected error, the work continues", work=work, fault=_reason(error), at=_place(error), **facts)


@contextmanager
def suppress_faults(work: str, **facts: object) -> Iterator[None]:
    """Count and log any exception of the block, and go on after the block."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 - other work depends on this thread
        record_fault(work, error, **facts)


class BackgroundLoop:
    """A daemon thread that calls *step* every *seconds*, until it returns False or `end` is called.

    If a step raises, the loop goes on.
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
        """End the thread. Returns after the current step, if there is one."""
        self._ended.set()
        self._thread.join()

    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def _run(self) -> None:
        goes_on = True
        while goes_on and not self._ended.wait(self._seconds):
            with suppress_faults(self._name):
                goes_on = self._step()


def _reason(error: BaseException) -> str:
    """Return the message if it cannot contain a secret, else the type of the error.

    Messages of Redis name a type or a line of a script. Our own are made for users. Others may contain anything.
    """
    if isinstance(error, MirrorError):
        return error.message
    name = type(error).__name__
    return f"{name}: {quoted(str(error))}" if isinstance(error, ResponseError) else name


def _place(error: BaseException) -> str:
    """Return the file and line that raised the error. If a library raised it, return our last line before it."""
    place, trace = "", error.__traceback__
    while trace is not None:
        path = PurePath(trace.tb_frame.f_code.co_filename)
        if not place or "site-packages" not in path.parts:
            place = f"{path.name}:{trace.tb_lineno}"
        trace = trace.tb_next
    return place
