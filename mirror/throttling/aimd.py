"""The limit of concurrent requests of all workers together to a registry.

It follows additive increase and multiplicative decrease (AIMD).

There is one limit for each registry and action. Every process that sends requests is a holder. Twice a second it
reports what it may use and receives its share. What the others were granted, or may still use, counts as taken. So the
sum of all shares never exceeds the limit. A share that becomes smaller is reduced in Redis only by
the holder's next report, because until then the holder uses the old one. A holder that is silent for `HOLDER_SECONDS`
is dead, and its share is free.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from mirror.redis import keys
from mirror.redis.client import Redis
from mirror.redis.scripts import load_script

START: Final = 32
MOST: Final = 64
MOST_OF_ONE: Final = 16
"""The largest share of one process, so that a second process need not wait until the first gives some back."""
HOLDER_SECONDS: Final = 5

_REPORT: Final = load_script(
    "mirror.throttling",
    "report_usage.lua",
    constants={"START": START, "MOST_OF_ONE": MOST_OF_ONE, "HOLDER_SECONDS": HOLDER_SECONDS},
)
_GIVE_BACK: Final = load_script("mirror.throttling", "give_share_back.lua")


@dataclass(frozen=True, slots=True)
class Usage:
    """What a holder reports, for the time since its last report.

    ``may_use`` is the number of requests that it has in progress, or may have before it receives the reply. It is
    ``saturated`` if all of its share was in use, and ``troubled`` if the registry was overloaded.
    """

    may_use: int = 0
    saturated: bool = False
    succeeded: bool = False
    troubled: bool = False


@dataclass(frozen=True, slots=True)
class Share:
    """What a holder may have in progress, of a *limit* for all.

    *streak* counts the seconds with overload in a row.
    """

    slots: int
    limit: float
    streak: int


class AimdLimits:
    """The limits of all registries.

    *most* is the highest limit of single registries, and `MOST` that of the others.
    """

    def __init__(self, redis: Redis, most: Mapping[str, int]) -> None:
        self._most = most
        self._report = redis.script(_REPORT)
        self._give_back = redis.script(_GIVE_BACK)

    def most(self, registry: str) -> int:
        """Return the highest limit of the registry."""
        return self._most.get(registry, MOST)

    def report(self, registry: str, action: str, holder: str, usage: Usage) -> Share:
        """Keep *holder* alive and return its share. Raises RedisUnavailable.

        Overload halves the limit. Success with the limit used up adds one. Each happens at most once a second for all
        holders together, so a report may be sent twice.
        """
        where = (registry, action)
        names = [keys.limiter("limit", *where), keys.limiter("holders", *where), keys.limiter("shares", *where)]
        flags = [int(flag) for flag in (usage.saturated, usage.succeeded, usage.troubled)]
        slots, limit, streak = self._report(names, [holder, usage.may_use, *flags, self.most(registry)])
        return Share(int(slots), float(limit), int(streak))

    def leave(self, registry: str, action: str, holder: str) -> None:
        """Give the holder's share back. Raises RedisUnavailable."""
        names = [keys.limiter("holders", registry, action), keys.limiter("shares", registry, action)]
        self._give_back(names, [holder])
