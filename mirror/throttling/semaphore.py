"""A counting gate: as many threads of this process may be behind it as its share allows."""

from __future__ import annotations

import threading
from collections.abc import Callable
from time import monotonic
from typing import Final

from mirror.throttling.aimd import Share, Usage

SHUT_SECONDS: Final = 5.0
"""How long a thread waits at a gate whose share is 0."""
STUCK_SECONDS: Final = 120.0
"""How long a thread waits while nobody comes out: those behind the gate may be waiting for what this thread has. Longer
than a part of a blob takes on a slow line, since a task that is given up here reads its manifests again.
"""
_SLICE: Final = 0.25

Wait = Callable[[float], None]
"""Waits for so many seconds, or raises to end the wait."""


class Semaphore:
    """Shared by the threads of a process; the share comes from outside and may be less than is in use.

    Who reports for it and brings the new share holds `reporting`: of two at once the older answer could come last.
    """

    def __init__(self) -> None:
        self.reporting = threading.Lock()
        self._changed = threading.Condition()
        self._share: int | None = None
        self._in_use = 0
        self._waiting = 0
        self._passed = 0
        self._saturated = False
        self._succeeded = False
        self._used_at = monotonic()
        self.streak = 0

    @property
    def is_open(self) -> bool:
        """Whether it has been given a share yet."""
        return self._share is not None

    def is_idle(self, seconds: float) -> bool:
        """Whether nobody is behind it or before it, and nobody was for so long."""
        with self._changed:
            return not self._in_use and not self._waiting and monotonic() - self._used_at >= seconds

    def usage(self, *, troubled: bool = False) -> Usage:
        """What may come of its share until `give`, and what has happened since this was last asked."""
        with self._changed:
            used = Usage(max(self._in_use, self._share or 0), self._saturated, self._succeeded, troubled)
            self._saturated = self._succeeded = False
            return used

    def give(self, share: Share) -> None:
        with self._changed:
            self._share, self.streak = share.slots, share.streak
            self._changed.notify_all()

    def approach(self) -> None:
        """Be before it, so that it is not idle; `enter` follows."""
        with self._changed:
            self._waiting += 1

    def enter(self, wait: Wait, ask: Callable[[], None]) -> bool:
        """Go through, or wait until that is possible; False where waiting on would only occupy a worker.

        *ask* is called now and then while the share is 0, to get another one.
        """
        try:
            with self._changed:
                if self._goes_through():
                    return True
                self._saturated = True
            return self._queue(wait, ask)
        finally:
            with self._changed:
                self._waiting -= 1

    def leave(self, *, succeeded: bool) -> None:
        with self._changed:
            self._in_use -= 1
            self._passed += 1
            self._succeeded = self._succeeded or succeeded
            self._used_at = monotonic()
            self._changed.notify()

    def _queue(self, wait: Wait, ask: Callable[[], None]) -> bool:
        moved = opened = monotonic()
        passed = self._passed
        while True:
            wait(0)
            with self._changed:
                if self._goes_through() or (self._changed.wait(_SLICE) and self._goes_through()):
                    return True
                now = monotonic()
                shut = not self._share
                opened = opened if shut else now
                moved = now if self._passed != passed else moved
                passed = self._passed
            if shut:
                ask()
            if now - opened >= SHUT_SECONDS or now - moved >= STUCK_SECONDS:
                return False

    def _goes_through(self) -> bool:
        if self._share is None or self._in_use >= self._share:
            return False
        self._in_use += 1
        self._used_at = monotonic()
        self._saturated = self._saturated or self._in_use >= self._share
        return True
