"""Giving up on a connection that gives almost nothing: a server that sends a byte now and then (slow-loris) outlasts
every timeout between two reads.

A read of at most 1 MiB that lasts longer than `SECONDS` is woken by closing its connection; the reader then goes on
with another one. That is a floor of about 17 kB/s per connection. One thread watches all reads of a copy.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Final, Protocol, Self

SECONDS: Final = 60.0
_LOOKS: Final = 12
"""How often the watch looks within `seconds`."""


class Wakeable(Protocol):
    """Something that is read from, and can be made to fail from another thread."""

    def interrupt(self) -> None: ...


class StallWatch:
    """Use as a context; its thread ends with it."""

    def __init__(self, seconds: float = SECONDS) -> None:
        self._seconds = seconds
        self._reads: dict[Wakeable, float] = {}
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="stalls", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    @contextmanager
    def watching(self, stream: Wakeable) -> Iterator[None]:
        """The block is one read from *stream*; if it lasts too long, the stream is interrupted."""
        with self._lock:
            self._reads[stream] = monotonic()
        try:
            yield
        finally:
            with self._lock:
                self._reads.pop(stream, None)

    def _watch(self) -> None:
        while not self._ended.wait(self._seconds / _LOOKS):
            late = monotonic() - self._seconds
            with self._lock:
                stalled = [stream for stream, begun in self._reads.items() if begun < late]
            for stream in stalled:
                stream.interrupt()
