"""A semaphore for the threads of one process.

Its size is the process's share of a registry's limit.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from time import monotonic
from typing import Final

from mirror.throttling.aimd import Share, Usage

NO_SHARE_SECONDS: Final = 5.0
"""Seconds a thread waits while the share is 0."""
STUCK_SECONDS: Final = 120.0
"""Seconds a thread waits while no slot is released.

The threads that hold the slots may wait for something that this thread has. The time is longer than a part of a blob
takes on a slow line, because a task that gives up here reads its manifests again.
"""
_POLL_SECONDS: Final = 0.25

Wait = Callable[[float], None]
"""Waits for so many seconds, or raises to end the wait."""


class Semaphore:
    """Slots for requests.

    `Limiter` sets the share, which may be less than the slots in use.

    Two reports to Redis at once could receive their replies in the wrong order. So the lock `reporting` is held from
    `usage` until `set_share`.
    """

    def __init__(self) -> None:
        self.reporting = threading.Lock()
        self.streak = 0
        self._changed = threading.Condition()
        self._share: int | None = None
        self._in_use = 0
        self._waiting = 0
        self._released = 0
        self._saturated = False
        self._succeeded = False
        self._used_at = monotonic()

    @property
    def has_share(self) -> bool:
        """Whether a share was ever set. It may be 0."""
        return self._share is not None

    def is_idle(self, seconds: float) -> bool:
        """Whether no thread has used the semaphore for so long."""
        with self._changed:
            return not self._in_use and not self._waiting and monotonic() - self._used_at >= seconds

    def usage(self, *, troubled: bool = False) -> Usage:
        """Return what may be in use until `set_share`, and clear the flags."""
        with self._changed:
            used = Usage(max(self._in_use, self._share or 0), self._saturated, self._succeeded, troubled)
            self._saturated = self._succeeded = False
            return used

    def set_share(self, share: Share) -> None:
        """Change the number of slots, and wake threads that wait."""
        with self._changed:
            self._share, self.streak = share.slots, share.streak
            self._changed.notify_all()

    def announce(self) -> None:
        """Count this thread as waiting, so that the semaphore is not idle.

        Call `acquire` next.
        """
        with self._changed:
            self._waiting += 1

    def acquire(self, wait: Wait, ask_for_share: Callable[[], None]) -> bool:
        """Take a slot, waiting for one if necessary.

        Return False if waiting longer would only occupy a worker.

        *wait* is called with 0 now and then, and may raise to end the wait. *ask_for_share* is called now and then
        while the share is 0.
        """
        try:
            with self._changed:
                if self._take_free_slot():
                    return True
                self._saturated = True
            return self._wait_for_slot(wait, ask_for_share)
        finally:
            with self._changed:
                self._waiting -= 1

    def release(self, *, succeeded: bool) -> None:
        """Give a slot back, with whether its request succeeded."""
        with self._changed:
            self._in_use -= 1
            self._released += 1
            self._succeeded = self._succeeded or succeeded
            self._used_at = monotonic()
            self._changed.notify()

    def _wait_for_slot(self, wait: Wait, ask_for_share: Callable[[], None]) -> bool:
        released_at = share_at = monotonic()
        released = self._released
        while True:
            wait(0)
            with self._changed:
                if self._take_free_slot() or (self._changed.wait(_POLL_SECONDS) and self._take_free_slot()):
                    return True
                now = monotonic()
                has_none = not self._share
                share_at = share_at if has_none else now
                released_at = now if self._released != released else released_at
                released = self._released
            if has_none:
                ask_for_share()
            if now - share_at >= NO_SHARE_SECONDS or now - released_at >= STUCK_SECONDS:
                return False

    def _take_free_slot(self) -> bool:
        """Take a slot if one is free. The caller holds the lock."""
        if self._share is None or self._in_use >= self._share:
            return False
        self._in_use += 1
        self._used_at = monotonic()
        self._saturated = self._saturated or self._in_use >= self._share
        return True
