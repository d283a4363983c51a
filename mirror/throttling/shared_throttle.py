"""What all workers together ask of a registry: slots, pull limits and breakers behind one door.

It is there to be gentle, not to be right: with Redis away everything is permitted that was, and no copy fails for it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from random import uniform
from time import monotonic
from typing import Final, TypeVar

import structlog

from mirror.background import record_fault
from mirror.errors import (
    MirrorError,
    RedisUnavailable,
    RegistryDown,
    RegistryFailing,
    SourceFailed,
    SourceTooSlow,
    SourceUnreachable,
)
from mirror.redis.client import Redis
from mirror.throttling.aimd import AimdLimits
from mirror.throttling.circuit_breaker import CircuitBreaker, Outage
from mirror.throttling.limiter import Limiter
from mirror.throttling.pull_quota import Account, QuotaLedger, Verdict

LONGEST_BACKOFF: Final = 300.0
AWAY_SECONDS: Final = 1.0
_LOG = structlog.get_logger(__name__)
T = TypeVar("T")


class SharedThrottle:
    """Admits requests to registries, agreed on with every other worker through Redis."""

    def __init__(self, redis: Redis, *, most: Mapping[str, int]) -> None:
        self._redis = redis
        self._slots = Limiter(AimdLimits(redis, most))
        self._breaker = CircuitBreaker(redis)
        self._ledger = QuotaLedger(redis)
        self._away_until = 0.0

    def prepare(self) -> None:
        """See `Redis.prepare`."""
        self._redis.prepare()

    def close(self) -> None:
        """Give back what this process holds."""
        self._slots.close()

    def permit(self, registry: str) -> None:
        """Raises what to wait for while nobody is to ask the registry, with the cause of its last failure.

        That is RegistryDown or RegistryFailing; SourceUnreachable or SourceFailed for a registry that never served.
        """
        outage = self._unless_away(lambda: self._breaker.permit(registry), None)
        if outage is not None:
            reason = f"{outage.cause or 'it does not answer'}, after several failures in a row"
            error = SourceFailed(registry, reason) if outage.answered else SourceUnreachable(registry, reason)
            raise _waiting(error, registry, outage)

    def failed(self, registry: str, error: MirrorError) -> MirrorError:
        """Count a failure; the error to wait it out with if the registry is known to work, else *error*."""
        cause = error.reason if isinstance(error, SourceFailed | SourceTooSlow | SourceUnreachable) else error.message
        answered = not isinstance(error, SourceUnreachable)
        outage = self._unless_away(lambda: self._breaker.failed(registry, cause, answered=answered), None)
        return _waiting(error, registry, outage) if outage else error

    def undecided(self, registry: str) -> None:
        """See `CircuitBreaker.undecided`."""
        self._unless_away(lambda: self._breaker.undecided(registry), None)

    def note_headless(self, registry: str) -> None:
        """See `CircuitBreaker.note_headless`."""
        self._unless_away(lambda: self._breaker.note_headless(registry), None)

    def is_headless(self, registry: str) -> bool:
        """See `CircuitBreaker.is_headless`; asks Redis nothing."""
        return self._breaker.is_headless(registry)

    def answered(self, registry: str, *, served: bool) -> None:
        self._unless_away(lambda: self._breaker.answered(registry, served=served), None)

    def enter(self, registry: str, action: str, wait: Callable[[float], None]) -> Callable[[bool], None]:
        """A slot: see `Limiter.enter`."""
        return self._slots.enter(registry, action, wait)

    def troubled(self, registry: str, action: str) -> float:
        """The registry is overloaded. Answers how long to back off: exponential, full jitter, up to five minutes."""
        streak = self._slots.troubled(registry, action)
        return max(1.0, uniform(0, min(LONGEST_BACKOFF, 5.0 * 2 ** min(streak, 10))))  # noqa: S311 - no secret

    def is_limited(self, registry: str) -> bool:
        return self._unless_away(lambda: self._ledger.is_limited(registry), otherwise=False)

    def tell(
        self, account: Account, *, limit: int, window: float, remaining: int, elapsed: float, unit: str | None
    ) -> None:
        tell = partial(
            self._ledger.tell, account, limit=limit, window=window, remaining=remaining, elapsed=elapsed, unit=unit
        )
        self._unless_away(tell, None)

    def reserve(self, account: Account, units: Sequence[str], *, asked: bool) -> Verdict:
        return self._unless_away(lambda: self._ledger.reserve(account, units, asked=asked), Verdict(granted=True))

    def spend(self, account: Account, unit: str) -> None:
        self._unless_away(lambda: self._ledger.spend(account, unit), None)

    def give_back(self, account: Account, units: Sequence[str]) -> None:
        self._unless_away(lambda: self._ledger.give_back(account, units), None)

    def used_up(self, account: Account) -> float | None:
        return self._unless_away(lambda: self._ledger.used_up(account), None)

    def cost(self, digest: str) -> int:
        return self._unless_away(lambda: self._ledger.cost(digest), 1)

    def note_cost(self, digest: str, manifests: int) -> None:
        self._unless_away(lambda: self._ledger.note_cost(digest, manifests), None)

    def _unless_away(self, ask: Callable[[], T], otherwise: T) -> T:
        """Redis' answer, or *otherwise*; a Redis that is away is left alone for a moment, for each try costs time."""
        if monotonic() < self._away_until:
            return otherwise
        try:
            return ask()
        except RedisUnavailable:
            self._away_until = monotonic() + AWAY_SECONDS
            _LOG.warning("Redis does not answer; registries are asked without it")
            return otherwise
        except Exception as error:  # noqa: BLE001 - an unusable ledger or breaker fails no copy
            record_fault("asking for admission", error)
            return otherwise


def _waiting(error: MirrorError, registry: str, outage: Outage) -> MirrorError:
    if not outage.known:
        return error
    kind = RegistryDown if isinstance(error, SourceUnreachable) else RegistryFailing
    return kind(registry, error.message, outage.wait)
