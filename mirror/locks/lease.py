"""Leases: at most one holder of a name at a time, and no holder for ever.

A lease is a key with an expiry and the holder's random token, so only its holder renews or ends it. Redis alone
measures its time. A lease stops two *live* holders from interleaving; a holder that was frozen past the expiry is
stopped by what it does under the lease: it renews it right before its last write, stops if it cannot, and gives that
write less time than the lease has (`catalog.publishing`).
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from tenacity import RetryError, Retrying, retry_if_result, stop_after_delay, wait_random

from mirror.redis.client import Redis

_TAKE = """
if redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2]) then return 1 end
if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('PEXPIRE', KEYS[1], ARGV[2]) return 1 end
return 0
"""
_RENEW = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])
"""
_END = """
if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end
return 0
"""


@dataclass(frozen=True, slots=True)
class Lease:
    """A lease that was taken; *seconds* is its length from every renewal on."""

    key: str
    token: str
    seconds: float


class Leases:
    """Takes and ends leases; safe to share between threads."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._take = redis.script(_TAKE)
        self._renew = redis.script(_RENEW)
        self._end = redis.script(_END)

    def take(self, key: str, seconds: float) -> Lease | None:
        """The lease, or None while somebody else holds it."""
        lease = Lease(key, secrets.token_hex(16), seconds)
        return lease if self.take_again(lease) else None

    def take_all(self, keys: Sequence[str], seconds: float) -> list[Lease | None]:
        """For each key what `take` answers, in few turns."""
        leases = [Lease(key, secrets.token_hex(16), seconds) for key in keys]
        taken = self._take.many([([lease.key], [lease.token, _ms(seconds)]) for lease in leases])
        return [lease if granted else None for lease, granted in zip(leases, taken, strict=True)]

    def take_again(self, lease: Lease) -> bool:
        """Take a lease that has ended, as after a long silence of Redis; False if somebody else holds it now."""
        return bool(self._take([lease.key], [lease.token, _ms(lease.seconds)]))

    def renew(self, lease: Lease) -> bool:
        """Start the lease's time anew; False if it is no longer ours."""
        return bool(self._renew([lease.key], [lease.token, _ms(lease.seconds)]))

    def renew_all(self, leases: Sequence[Lease]) -> list[bool]:
        """For each lease what `renew` answers, in few turns."""
        renewed = self._renew.many([([lease.key], [lease.token, _ms(lease.seconds)]) for lease in leases])
        return [bool(is_ours) for is_ours in renewed]

    def is_held(self, key: str) -> bool:
        """Whether anybody holds the lease."""
        return bool(self._redis.call("EXISTS", key))

    def end(self, lease: Lease) -> None:
        """Give the lease back; nothing happens if it is no longer ours."""
        self._end([lease.key], [lease.token])

    def end_all(self, leases: Iterable[Lease]) -> None:
        """Give all of them back in few turns."""
        self._end.many([([lease.key], [lease.token]) for lease in leases])

    @contextmanager
    def holding(self, key: str, seconds: float, *, patience: float) -> Iterator[Lease | None]:
        """Hold the lease for the block; None where others held it for all of *patience* seconds."""
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
        finally:
            if lease is not None:
                self.end(lease)


def _ms(seconds: float) -> int:
    return int(seconds * 1000)
