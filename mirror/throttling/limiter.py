"""Limit the concurrent requests of this process to a registry.

It may use its share of the limit for all workers.

A request costs no round trip to Redis: a local semaphore admits it. One thread of the process reports the use of all
semaphores twice a second. While a share is 0, one of the waiting threads reports too. With Redis away the last share
stays valid, and no copy fails. A semaphore that was idle for some seconds gives its share back. The thread ends with
the last semaphore.
"""

from __future__ import annotations

import os
import secrets
import threading
import weakref
from collections.abc import Callable
from random import uniform
from typing import Final

import structlog

from mirror.background import BackgroundLoop, record_fault, suppress_faults
from mirror.errors import RedisUnavailable, RegistryBusy
from mirror.throttling.aimd import AimdLimits, Share
from mirror.throttling.semaphore import Semaphore, Wait

REPORT_SECONDS: Final = 0.5
IDLE_SECONDS: Final = 3.0
LONGEST_BACKOFF: Final = 300.0
_SHARE_WITHOUT_REDIS: Final = 4
"""The share of a process that never reached Redis."""
_LOG = structlog.get_logger(__name__)


class Limiter:
    """The semaphores of a process, by registry and action.

    Safe to share between threads, and to be forked.

    The holder's name is chosen once and inherited by a fork. A worker has one work horse at a time. The next one
    continues with the share of the last, whether that was given back or its work horse was killed.
    """

    def __init__(self, limits: AimdLimits) -> None:
        self._limits = limits
        self._holder = secrets.token_hex(8)
        self._reset()
        _LIVING.add(self)

    def _reset(self) -> None:
        """Start without semaphores.

        A forked child has no threads of its parent, whose locks may be held for ever.
        """
        self._lock = threading.Lock()
        self._order = threading.Lock()
        self._semaphores: dict[tuple[str, str], Semaphore] = {}
        self._reporter: BackgroundLoop | None = None

    def enter(self, registry: str, action: str, wait: Wait) -> Callable[[bool], None]:
        """Take a slot.

        Return a function that gives it back and receives whether the request succeeded.

        *wait* is called with 0 now and then, and may raise to end the wait. Raises RegistryBusy if no slot is free.
        """
        semaphore = self._announce(registry, action)
        if not semaphore.has_share:
            with self._order:
                self._report(registry, action, semaphore)
        if not semaphore.acquire(wait, lambda: self._ask_for_share(registry, action, semaphore)):
            raise RegistryBusy(registry)
        return lambda succeeded: semaphore.release(succeeded=succeeded)

    def troubled(self, registry: str, action: str) -> float:
        """Halve the limit now, because the registry is overloaded.

        Return the seconds to back off.

        The time is exponential in the seconds with overload in a row, with full jitter, up to five minutes.
        """
        with self._lock:
            semaphore = self._semaphores.get((registry, action))
        streak = 0
        if semaphore is not None:  # else the request has ended, and its share was given back
            self._report(registry, action, semaphore, troubled=True)
            streak = semaphore.streak
        return max(1.0, uniform(0, min(LONGEST_BACKOFF, 5.0 * 2 ** min(streak, 10))))  # noqa: S311 - no secret

    def close(self) -> None:
        """Give all shares back."""
        with self._lock:
            reporter, semaphores = self._reporter, dict(self._semaphores)
            self._semaphores.clear()
        if reporter is not None:
            reporter.end()
        for registry, action in semaphores:
            self._give_back(registry, action)
        self._reset()

    def _announce(self, registry: str, action: str) -> Semaphore:
        """Return the semaphore, and count this thread as waiting for a slot."""
        with self._lock:
            semaphore = self._semaphores.setdefault((registry, action), Semaphore())
            semaphore.announce()
            if self._reporter is None:
                self._reporter = BackgroundLoop("limiter", REPORT_SECONDS, self._report_all).start()
        return semaphore

    def _ask_for_share(self, registry: str, action: str, semaphore: Semaphore) -> None:
        """Report in one of the waiting threads. The others go on waiting."""
        if self._order.acquire(blocking=False):
            try:
                self._report(registry, action, semaphore)
            finally:
                self._order.release()

    def _report_all(self) -> bool:
        """Report for every semaphore. Return False after the last one."""
        for (registry, action), semaphore in self._current():
            with suppress_faults("reporting to the limiter", registry=registry, action=action):
                self._report(registry, action, semaphore)
        return not self._has_ended()

    def _current(self) -> list[tuple[tuple[str, str], Semaphore]]:
        """Return the semaphores in use, and give back the shares of the idle ones."""
        with self._lock:
            idle = [where for where, semaphore in self._semaphores.items() if semaphore.is_idle(IDLE_SECONDS)]
            for where in idle:
                del self._semaphores[where]
            current = list(self._semaphores.items())
        for where in idle:
            self._give_back(*where)
        return current

    def _has_ended(self) -> bool:
        with self._lock:
            if self._semaphores:
                return False
            self._reporter = None
            return True

    def _report(self, registry: str, action: str, semaphore: Semaphore, *, troubled: bool = False) -> None:
        with semaphore.reporting:
            try:
                usage = semaphore.usage(troubled=troubled)
                semaphore.set_share(self._limits.report(registry, action, self._holder, usage))
            except RedisUnavailable:
                _LOG.warning("Redis is away, so the limit of requests stays", registry=registry, action=action)
                self._go_on_without_redis(registry, semaphore)
            except Exception as error:  # noqa: BLE001 - being gentle to a registry is not worth a failed copy
                record_fault("reporting to the limiter", error, registry=registry, action=action)
                self._go_on_without_redis(registry, semaphore)

    def _go_on_without_redis(self, registry: str, semaphore: Semaphore) -> None:
        if not semaphore.has_share:
            slots = min(_SHARE_WITHOUT_REDIS, self._limits.most(registry))
            semaphore.set_share(Share(slots, slots, 0))

    def _give_back(self, registry: str, action: str) -> None:
        """Give the share back, unless the semaphore is in use again.

        The lock `_order` keeps this apart from the first report of a new semaphore.
        """
        try:
            with self._order:
                if (registry, action) not in self._semaphores:
                    self._limits.leave(registry, action, self._holder)
        except RedisUnavailable:
            _LOG.info("Redis is away, so the share of a registry's limit expires", registry=registry, action=action)
        except Exception as error:  # noqa: BLE001 - the shares of other registries are given back all the same
            record_fault("giving back a share", error, registry=registry, action=action)


_LIVING: Final[weakref.WeakSet[Limiter]] = weakref.WeakSet()


def _after_fork() -> None:
    for limiter in _LIVING:
        limiter._reset()


os.register_at_fork(after_in_child=_after_fork)
