"""Limiter for requests: this process's part of what a registry is sent at once.

A request costs no round trip to Redis: a local gate admits it, and one thread of the process reports for all gates
twice a second; while the share is 0, one of those who wait asks as well. With Redis away the last share stands; no
copy fails for it. A gate that was idle for some seconds gives its share back, and the thread ends with the last one.
"""

from __future__ import annotations

import os
import secrets
import threading
import weakref
from collections.abc import Callable
from typing import Final

import structlog

from mirror.background import BackgroundLoop, record_fault, suppress_faults
from mirror.errors import RedisUnavailable, RegistryBusy
from mirror.throttling.aimd import AimdLimits, Share
from mirror.throttling.semaphore import Semaphore, Wait

REPORT_SECONDS: Final = 0.5
IDLE_SECONDS: Final = 3.0
_BLIND: Final = 4
"""The share of a process that never reached Redis."""
_LOG = structlog.get_logger(__name__)


class Limiter:
    """The gates of a process, by registry and action. Safe to share between threads, and to be forked.

    The holder's name is chosen once and inherited by a fork: a worker has one work horse at a time, and the next takes
    up the share of the last, whether that was given back or its horse was killed.
    """

    def __init__(self, limits: AimdLimits) -> None:
        self._limits = limits
        self._holder = secrets.token_hex(8)
        self._begin()
        _LIVING.add(self)

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._order = threading.Lock()
        self._gates: dict[tuple[str, str], Semaphore] = {}
        self._reporter: BackgroundLoop | None = None

    def enter(self, registry: str, action: str, wait: Wait) -> Callable[[bool], None]:
        """Take a slot; what is answered gives it back, and is told whether the request succeeded.

        *wait* is called with 0 now and then, to raise where the wait is to end. Raises RegistryBusy if no slot comes.
        """
        gate = self._gate(registry, action)
        if not gate.is_open:
            with self._order:
                self._report(registry, action, gate)
        if not gate.enter(wait, lambda: self._ask_again(registry, action, gate)):
            raise RegistryBusy(registry)
        return lambda succeeded: gate.leave(succeeded=succeeded)

    def _ask_again(self, registry: str, action: str, gate: Semaphore) -> None:
        """For a share where there was none: one of those who wait asks for all."""
        if self._order.acquire(blocking=False):
            try:
                self._report(registry, action, gate)
            finally:
                self._order.release()

    def troubled(self, registry: str, action: str) -> int:
        """The registry is overloaded: halve the limit now. Answers how many seconds of trouble there were in a row."""
        with self._lock:
            gate = self._gates.get((registry, action))
        if gate is None:  # whoever had the trouble has left, and its share was given back
            return 0
        self._report(registry, action, gate, troubled=True)
        return gate.streak

    def close(self) -> None:
        """Give all shares back."""
        with self._lock:
            reporter, gates = self._reporter, dict(self._gates)
            self._gates.clear()
        if reporter is not None:
            reporter.end()
        for registry, action in gates:
            self._give_back(registry, action)
        self._begin()

    def _gate(self, registry: str, action: str) -> Semaphore:
        """The gate, kept from now on until somebody has gone through it and left."""
        with self._lock:
            gate = self._gates.setdefault((registry, action), Semaphore())
            gate.approach()
            if self._reporter is None:
                self._reporter = BackgroundLoop("slots", REPORT_SECONDS, self._report_all).start()
        return gate

    def _report_all(self) -> bool:
        """Report for every gate; False after the last one."""
        for (registry, action), gate in self._current():
            with suppress_faults("reporting slots", registry=registry, action=action):
                self._report(registry, action, gate)
        return not self._has_ended()

    def _current(self) -> list[tuple[tuple[str, str], Semaphore]]:
        """The gates that are in use; the shares of the others are given back."""
        with self._lock:
            idle = [where for where, gate in self._gates.items() if gate.is_idle(IDLE_SECONDS)]
            for where in idle:
                del self._gates[where]
            current = list(self._gates.items())
        for where in idle:
            self._give_back(*where)
        return current

    def _has_ended(self) -> bool:
        with self._lock:
            if self._gates:
                return False
            self._reporter = None
            return True

    def _report(self, registry: str, action: str, gate: Semaphore, *, troubled: bool = False) -> None:
        with gate.reporting:
            try:
                gate.give(self._limits.report(registry, action, self._holder, gate.usage(troubled=troubled)))
            except RedisUnavailable:
                _LOG.warning("Redis does not answer; the registry is asked as before", registry=registry, action=action)
                self._go_on_blindly(registry, gate)
            except Exception as error:  # noqa: BLE001 - to be gentle with one registry is not worth a copy
                record_fault("reporting slots", error, registry=registry, action=action)
                self._go_on_blindly(registry, gate)

    def _go_on_blindly(self, registry: str, gate: Semaphore) -> None:
        if not gate.is_open:
            slots = min(_BLIND, self._limits.most(registry))
            gate.give(Share(slots, slots, 0))

    def _give_back(self, registry: str, action: str) -> None:
        """Nothing happens if the gate is in use anew: a first report and a leave never overtake one another."""
        try:
            with self._order:
                if (registry, action) not in self._gates:
                    self._limits.leave(registry, action, self._holder)
        except RedisUnavailable:
            _LOG.info("the share in a registry's slots will end by itself", registry=registry, action=action)
        except Exception as error:  # noqa: BLE001 - the shares of other registries are given back all the same
            record_fault("giving back slots", error, registry=registry, action=action)

    def _forget_parent(self) -> None:
        """In a forked child: its parent's threads are not there, and its locks may be held for ever."""
        self._begin()


_LIVING: Final[weakref.WeakSet[Limiter]] = weakref.WeakSet()


def _after_fork() -> None:
    for slots in _LIVING:
        slots._forget_parent()


os.register_at_fork(after_in_child=_after_fork)
