"""Redis' clock under a test's control: it stands still and moves when told to."""

from __future__ import annotations

from mirror.redis import keys
from mirror.redis.client import Redis


class StoppedClock:
    """Redis' time never goes back, so a time far ahead stands still until the real one has caught up."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self.advance(3600)

    def advance(self, seconds: float) -> None:
        self._redis.call("SET", keys.CLOCK, self._redis.now() + int(seconds * 1000))

    def __call__(self) -> float:
        """Seconds since the epoch."""
        return self._redis.now() / 1000
