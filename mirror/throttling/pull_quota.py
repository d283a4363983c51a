"""The ledger of pull limits, shared by all workers.

It holds what registries stated, less what is reserved for requests without a response yet.

There is one ledger per account: registry, credential and egress. Many workers read and write it, and responses overtake
each other. So a stated number counts only where it can be true now: a lower one always, a higher one only if its
request was sent after the last report. A reservation ends with its own response, or is given back, or expires with the
worker that made it.

The limit's window is taken to be fixed, and to begin when it was first seen used. If it turns out to roll, a twentieth
of its length is waited for at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from mirror.errors import LONGEST_REST
from mirror.redis import keys
from mirror.redis.client import Redis
from mirror.redis.scripts import load_script
from mirror.throttling.tolerance import Tolerance, without_redis

RESERVED_SECONDS: Final = 120
COST_SECONDS: Final = 7 * 86400
_LONGEST_MS: Final = int(LONGEST_REST * 1000)
"""A window counts as no longer than this, even if an older release wrote more. Its ledger lives for twice as long."""

Account = tuple[str, str, str]
"""Registry, credential and egress."""


def _load(file: str) -> str:
    constants = {"LONGEST_MS": _LONGEST_MS, "RESERVED_SECONDS": RESERVED_SECONDS}
    return load_script("mirror.throttling", file, constants=constants)


_TELL: Final = _load("quota_tell.lua")
_RESERVE: Final = _load("quota_reserve.lua")
_SPEND: Final = _load("quota_spend.lua")
_USED_UP: Final = _load("quota_used_up.lua")


@dataclass(frozen=True, slots=True)
class QuotaDecision:
    """Whether units were reserved.

    If not, *wait* is in seconds. *told_ago* is the age of the last report in seconds.

    It is *undecided* if pending requests of other workers decide. Their responses arrive soon. At the latest after
    *wait*, what a dead worker has reserved is free again.
    """

    granted: bool
    wait: float = 0.0
    told_ago: float = 0.0
    undecided: bool = False


class PullQuota:
    """The ledgers of all accounts.

    Without Redis, everything is granted and nothing is noted.

    A unit is one manifest read. The caller chooses its name.
    """

    def __init__(self, redis: Redis, tolerance: Tolerance) -> None:
        self.tolerance = tolerance
        self._redis = redis
        self._tell = redis.script(_TELL)
        self._reserve = redis.script(_RESERVE)
        self._spend = redis.script(_SPEND)
        self._used_up = redis.script(_USED_UP)

    @without_redis(returns=False)
    def is_limited(self, registry: str) -> bool:
        """Return whether the registry has stated a limit to any worker."""
        key = keys.quota("limited", registry)
        left = int(self._redis.call("PTTL", key))
        if left > 2 * _LONGEST_MS:
            self._redis.call("PEXPIRE", key, 2 * _LONGEST_MS)
        return left != -2  # Redis' reply for a key that does not exist

    @without_redis(returns=None)
    def tell(
        self, account: Account, *, limit: int, window: float, remaining: int, elapsed: float, unit: str | None
    ) -> None:
        """Record the limit that a response stated.

        Its request was sent *elapsed* seconds ago.

        That settles the *unit* which was reserved for the request, if there was one.
        """
        args: list[str | float] = [limit, int(window * 1000), remaining, int(elapsed * 1000), unit or ""]
        self._tell([*_keys(account), keys.quota("limited", account[0])], args)

    @without_redis(returns=QuotaDecision(granted=True))
    def reserve(self, account: Account, units: Sequence[str], *, asked: bool) -> QuotaDecision:
        """Reserve all *units* or none.

        More than the whole limit is granted if the whole limit is left.

        *asked* means that the registry was just sent a HEAD to learn what remains. If the last report is still from a
        window that has ended, its HEADs state nothing, and a new window is assumed.
        """
        granted, wait, told_ago, undecided = self._reserve(_keys(account), [int(asked), *units])
        return QuotaDecision(bool(granted), wait / 1000, told_ago / 1000, bool(undecided))

    @without_redis(returns=None)
    def spend(self, account: Account, unit: str) -> None:
        """Note that the unit was spent, and that its response stated no limit."""
        self._spend(_keys(account), [unit])

    @without_redis(returns=None)
    def give_back(self, account: Account, units: Sequence[str]) -> None:
        """Note that the units were not spent."""
        self._redis.call("ZREM", keys.quota("reserved", *account), *units)

    @without_redis(returns=None)
    def used_up(self, account: Account) -> float | None:
        """Note that the registry refused a read because of its limit.

        Return the seconds until its window ends, None if it never stated a limit.
        """
        wait = int(self._used_up(_keys(account)))
        return None if wait < 0 else wait / 1000

    @without_redis(returns=1)
    def cost(self, digest: str) -> int:
        """Return how many manifests the image is known to have, 1 if that is unknown."""
        return int(self._redis.call("GET", keys.quota("cost", digest)) or 1)

    @without_redis(returns=None)
    def note_cost(self, digest: str, manifests: int) -> None:
        """Note how many manifests the image has."""
        self._redis.call("SET", keys.quota("cost", digest), manifests, "EX", COST_SECONDS)


def _keys(account: Account) -> list[str]:
    return [keys.quota("ledger", *account), keys.quota("reserved", *account)]
