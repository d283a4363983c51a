"""A clock of Redis that a test controls."""

from __future__ import annotations

from mirror.redis import keys
from mirror.redis.client import Redis


class StoppedClock:
    """Sets Redis' time far ahead, and its speed to zero. So it stands still until `advance`."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self.advance(3600)

    def advance(self, seconds: float) -> None:
        time, [wall, micros] = self._redis.now() + int(seconds * 1000), self._redis.call("TIME")
        slowed = f"{time} {int(wall) * 1_000_000 + int(micros)} 0"
        self._redis.call("MSET", keys.CLOCK, time, keys.CLOCK_SLOWED, slowed)

    def __call__(self) -> float:
        """Seconds since the epoch."""
        return self._redis.now() / 1000
