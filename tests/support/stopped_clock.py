"""A clock of Redis that a test controls."""

from __future__ import annotations

from mirror.redis import keys
from mirror.redis.client import Redis


class StoppedClock:
    """Sets Redis' time far ahead. It never goes back, so it stands still until `advance`."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self.advance(3600)

    def advance(self, seconds: float) -> None:
        self._redis.call("SET", keys.CLOCK, self._redis.now() + int(seconds * 1000))

    def __call__(self) -> float:
        """Seconds since the epoch."""
        return self._redis.now() / 1000
