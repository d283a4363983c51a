"""A circuit breaker per registry, shared by all workers.

With it a dead registry does not occupy them.

- closed: requests are sent. 5 failures in a row within a minute open it.
- open: no request is sent for 15 s. Each probe that fails doubles that time, up to 5 minutes.
- half-open: one request is sent as a probe. Its success closes the breaker, its failure opens it.

Its record also says when the registry last sent what was asked for. A registry that did so in the last 30 days is known
to work, and tasks wait for it. For any other, say a mistyped host, no task waits. The record holds the cause of the
last failure too. And it says whether HEADs of manifests are of any use there, so that no other worker has to find out
for `HEADLESS_SECONDS`.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from random import uniform
from time import monotonic
from typing import Any, Final

from mirror.errors import MirrorError, RegistryDown, RegistryFailing, SourceFailed, SourceTooSlow, SourceUnreachable
from mirror.redis import keys
from mirror.redis.client import Redis
from mirror.redis.scripts import load_script
from mirror.throttling.tolerance import Tolerance, without_redis

FAILURES: Final = 5
OPEN_SECONDS: Final = 15.0
LONGEST_OPEN: Final = 300.0
PROBE_SECONDS: Final = 60.0
HEADLESS_SECONDS: Final = 900
"""Seconds without HEADs of manifests to a registry where a HEAD failed and a GET worked."""
_KNOWN_SECONDS: Final = 30 * 86400
_PERMIT_SECONDS: Final = 1.0
"""Seconds for which a permit is used again without asking Redis."""
_LOCK_SECONDS: Final = 0.25
_LONGEST_CAUSE: Final = 500
_MINUTE: Final = 60.0


def _load(file: str) -> str:
    constants = {
        "FAILURES": FAILURES,
        "ROW_SECONDS": _MINUTE,
        "OPEN_SECONDS": OPEN_SECONDS,
        "LONGEST_OPEN": LONGEST_OPEN,
        "PROBE_SECONDS": PROBE_SECONDS,
        "KNOWN_SECONDS": _KNOWN_SECONDS,
        "HEADLESS_SECONDS": HEADLESS_SECONDS,
    }
    return load_script("mirror.throttling", file, constants=constants)


_PERMIT: Final = _load("breaker_permit.lua")
_FAILED: Final = _load("breaker_failed.lua")
_ANSWERED: Final = _load("breaker_answered.lua")
_UNDECIDED: Final = _load("breaker_undecided.lua")
_HEADLESS: Final = _load("breaker_headless.lua")


@dataclass(frozen=True, slots=True)
class RegistryOutage:
    """A registry that does not serve.

    *known* says whether it is known to work, and *wait* is the seconds until it is asked again.

    *cause* is the last failure. *answered* says whether that was a response of the registry.
    """

    known: bool
    wait: float
    cause: str = ""
    answered: bool = False


@dataclass(slots=True)
class _LocalState:
    """What this process knows of a registry, so that few requests ask Redis.

    The thread that asks Redis holds the lock. Threads that come meanwhile wait for it and use what it finds out. They
    wait only a moment, so that a silent Redis does not hold up all of them.
    """

    permitted_at: float = -_MINUTE
    failures: int = 1
    noted_at: float = -_MINUTE
    probing: bool = False
    headless_until: float = 0.0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def is_permitted(self) -> bool:
        return monotonic() - self.permitted_at < _PERMIT_SECONDS

    def is_news(self, *, served: bool) -> bool:
        """Whether an answer of the registry must be noted in Redis."""
        return bool(self.failures) or (served and monotonic() - self.noted_at >= _MINUTE)

    @contextmanager
    def asking(self) -> Iterator[None]:
        held = self.lock.acquire(timeout=_LOCK_SECONDS)
        try:
            yield
        finally:
            if held:
                self.lock.release()


class CircuitBreaker:
    """The breakers of all registries.

    Without Redis, every request is permitted. Safe to share between threads.
    """

    def __init__(self, redis: Redis, tolerance: Tolerance) -> None:
        self.tolerance = tolerance
        self._permit = redis.script(_PERMIT)
        self._failed = redis.script(_FAILED)
        self._answered = redis.script(_ANSWERED)
        self._undecided = redis.script(_UNDECIDED)
        self._headless = redis.script(_HEADLESS)
        self._lock = threading.Lock()
        self._states: dict[str, _LocalState] = {}

    def permit(self, registry: str) -> None:
        """Raise while no request is to be sent to the registry.

        The error names the last failure.

        That is RegistryDown or RegistryFailing, which a task waits for. For a registry that never served it is
        SourceUnreachable or SourceFailed.
        """
        outage = self.check(registry)
        if outage is not None:
            reason = f"{outage.cause or 'it does not answer'}, after several failures in a row"
            error = SourceFailed(registry, reason) if outage.answered else SourceUnreachable(registry, reason)
            raise _to_wait_for(error, registry, outage)

    def failed(self, registry: str, error: MirrorError) -> MirrorError:
        """Count a failure.

        Return an error that a task waits for if the registry is known to work, else *error*.
        """
        cause = error.reason if isinstance(error, SourceFailed | SourceTooSlow | SourceUnreachable) else error.message
        outage = self.count_failure(registry, cause, answered=not isinstance(error, SourceUnreachable))
        return _to_wait_for(error, registry, outage) if outage else error

    @without_redis(returns=None)
    def check(self, registry: str) -> RegistryOutage | None:
        """Return None if a request may be sent to the registry.

        It may have to be the probe.

        That a request may be sent was true at most a second ago.
        """
        state = self._state_of(registry)
        if state.is_permitted():
            return None
        with state.asking():
            if state.is_permitted():
                return None
            reply = self._permit([keys.breaker(registry)], [secrets.token_hex(8)])
            if len(reply) > 2:
                return _outage(reply)
            failures, headless = int(reply[0]), int(reply[1])
            state.probing = failures < 0
            state.failures, state.permitted_at = abs(failures), -_MINUTE if state.probing else monotonic()
            state.headless_until = monotonic() + headless / 1000
        return None

    @without_redis(returns=None)
    def count_failure(self, registry: str, cause: str = "", *, answered: bool = False) -> RegistryOutage | None:
        """Count a failure to reach the registry, or to be served by it at all.

        Return the outage.
        """
        state = self._state_of(registry)
        state.failures, state.permitted_at, state.probing = 1, -_MINUTE, False
        jitter = uniform(0.8, 1.2)  # noqa: S311 - spreads probes, guards nothing
        args: list[str | float] = [secrets.token_hex(8), jitter, cause[:_LONGEST_CAUSE], int(answered)]
        return _outage(self._failed([keys.breaker(registry)], args))

    @without_redis(returns=None)
    def undecided(self, registry: str) -> None:
        """Note that the permitted request showed nothing about the registry.

        The next request decides.
        """
        state = self._state_of(registry)
        if state.probing:
            state.probing = False
            self._undecided([keys.breaker(registry)], [])

    @without_redis(returns=None)
    def answered(self, registry: str, *, served: bool) -> None:
        """Note that the registry was reached, at most once a minute.

        It *served* if it sent what was asked for.
        """
        state = self._state_of(registry)
        if not state.is_news(served=served):
            return
        with state.asking():
            if not state.is_news(served=served):
                return
            self._answered([keys.breaker(registry)], [int(served)])
            state.failures = 0
            if served:
                state.noted_at = monotonic()

    @without_redis(returns=None)
    def note_headless(self, registry: str) -> None:
        """Note that a GET of a manifest worked after a HEAD had failed."""
        self._state_of(registry).headless_until = monotonic() + HEADLESS_SECONDS
        self._headless([keys.breaker(registry)], [])

    def is_headless(self, registry: str) -> bool:
        """Return whether HEADs of manifests are of no use there.

        That is known from the last `permit`.
        """
        return monotonic() < self._state_of(registry).headless_until

    def _state_of(self, registry: str) -> _LocalState:
        with self._lock:
            return self._states.setdefault(registry, _LocalState())


def _outage(reply: list[Any]) -> RegistryOutage:
    known, wait, cause, answered = reply
    return RegistryOutage(bool(known), int(wait) / 1000, str(cause), bool(answered))


def _to_wait_for(error: MirrorError, registry: str, outage: RegistryOutage) -> MirrorError:
    """Return the error that makes a task wait.

    It is *error* itself for a registry that is not known to work.
    """
    if not outage.known:
        return error
    kind = RegistryDown if isinstance(error, SourceUnreachable) else RegistryFailing
    return kind(registry, error.message, outage.wait)
