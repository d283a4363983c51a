"""Leases: a name has at most one holder at a time, and no holder for ever.

A lease is a key with an expiry. Its value is the holder's random token, so only its holder renews or ends it. Redis
alone measures the time. A lease keeps two *live* holders apart. A holder that was frozen past the expiry must stop by
itself: it renews the lease right before its last write, stops if it cannot, and gives that write less time than the
lease has (`mirror.catalog.publish`).
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from tenacity import RetryError, Retrying, retry_if_result, stop_after_delay, wait_random

from mirror.redis.client import Redis
from mirror.redis.scripts import load_script

_LONGEST_SECONDS: Final = 300
"""No lease is as long. One that seems to be was taken before the clock of Redis was set back, and is cut short."""
_TAKE: Final = load_script("mirror.locks", "take_lease.lua", constants={"LONGEST_SECONDS": _LONGEST_SECONDS})
_RENEW: Final = load_script("mirror.locks", "renew_lease.lua")
_END: Final = load_script("mirror.locks", "end_lease.lua")


@dataclass(frozen=True, slots=True)
class Lease:
    """A lease that was taken. It lasts *seconds* from each renewal."""

    key: str
    token: str
    seconds: float


class Leases:
    """Take, renew and end leases.

    Every method raises RedisUnavailable. Safe to share between threads.
    """

    def __init__(self, redis: Redis) -> None:
        self._take = redis.script(_TAKE)
        self._renew = redis.script(_RENEW)
        self._end = redis.script(_END)

    def take(self, key: str, seconds: float) -> Lease | None:
        """Take the lease. Return None while another holder has it."""
        [lease] = self.take_all([key], seconds)
        return lease

    def take_all(self, keys: Sequence[str], seconds: float) -> list[Lease | None]:
        """Take many leases in few round trips. For each key return what `take` does."""
        leases = [Lease(key, secrets.token_hex(16), seconds) for key in keys]
        taken = self._take.many([_run(lease) for lease in leases])
        return [lease if granted else None for lease, granted in zip(leases, taken, strict=True)]

    def take_again(self, lease: Lease) -> bool:
        """Take a lease that expired, as after a long outage of Redis.

        Return False if another holder has it now.
        """
        return bool(self._take(*_run(lease)))

    def renew(self, lease: Lease) -> bool:
        """Start the lease's time again. Return False if the lease is no longer ours."""
        [is_ours] = self.renew_all([lease])
        return is_ours

    def renew_all(self, leases: Sequence[Lease]) -> list[bool]:
        """Renew many leases in few round trips. For each lease return what `renew` does."""
        return [bool(is_ours) for is_ours in self._renew.many([_run(lease) for lease in leases])]

    def end(self, *leases: Lease) -> None:
        """End the leases in few round trips.

        A lease that is no longer ours is left alone.
        """
        self._end.many([([lease.key], [lease.token]) for lease in leases])

    @contextmanager
    def holding(
        self, key: str, seconds: float, *, patience: float, kept_after: type[Exception] | tuple[()] = ()
    ) -> Iterator[Lease | None]:
        """Hold the lease during the block.

        Yield None if others held it for all of *patience* seconds. If the block raises *kept_after*, the lease is not
        ended and expires: what the block has begun may still happen.
        """
        attempts = Retrying(
            stop=stop_after_delay(patience),
            wait=wait_random(0.01, 0.2),
            retry=retry_if_result(lambda taken: taken is None),
        )
        try:
            lease = attempts(self.take, key, seconds)
        except RetryError:
            lease = None
        try:
            yield lease
        except kept_after:
            lease = None
            raise
        finally:
            if lease is not None:
                self.end(lease)


def _run(lease: Lease) -> tuple[list[str], list[str | float]]:
    """Return the keys and the arguments of a script that takes or renews the lease."""
    return [lease.key], [lease.token, int(lease.seconds * 1000)]
