"""One way to speak to Redis: plain commands and scripts, patient or not, with one error.

Every script may run twice: a connection can break after Redis did the work and before its answer came, and the
command is then sent again. Scripts are written so that the second run finds the first and answers the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final, Self

import redis
from redis.backoff import ExponentialWithJitterBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ReadOnlyError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.maint_notifications import MaintNotificationsConfig
from redis.retry import Retry

from mirror.coordination import keys
from mirror.errors import RedisUnavailable

PATIENT: Final = 120
"""Retries of a worker or scheduler, about two minutes: long enough for Redis to restart and load its data."""
BRISK: Final = 2
"""Retries of the API, which answers 503 rather than let its client hang."""
_AWAY: Final = (RedisConnectionError, RedisTimeoutError, ReadOnlyError)

NOW: Final = f"""
local function now()
  local time = redis.call('TIME')
  local ms = time[1] * 1000 + math.floor(time[2] / 1000)
  local last = tonumber(redis.call('GET', '{keys.CLOCK}') or '0')
  if ms < last then return last end
  redis.call('SET', '{keys.CLOCK}', string.format('%d', ms))
  return ms
end
"""
"""Lua: Redis' own time in ms, which never goes back, so that no lease revives when a clock is set."""


class Script:
    """A Lua script that is loaded where it is missing, as after a restart of Redis."""

    def __init__(self, client: redis.Redis, source: str) -> None:
        self._client = client
        self._script = client.register_script(source)

    def __call__(self, keys: Sequence[str] = (), args: Sequence[str | float] = ()) -> Any:
        """Run the script; raises RedisUnavailable."""
        try:
            return self._script(keys=list(keys), args=list(args))
        except _AWAY:
            raise RedisUnavailable from None

    def many(self, runs: Sequence[tuple[Sequence[str], Sequence[str | float]]]) -> list[Any]:
        """Run the script once for each (keys, args), in that order and in one turn, not as a transaction.

        Raises RedisUnavailable; then any of the runs may have been made.
        """
        if len(runs) < 2:
            return [self(*run) for run in runs]  # a pipeline looks first whether the script is there: a turn more
        pipeline = self._client.pipeline(transaction=False)
        for names, args in runs:
            self._script(keys=list(names), args=list(args), client=pipeline)
        try:
            return list(pipeline.execute())
        except _AWAY:
            raise RedisUnavailable from None


class Redis:
    """A connection pool. Answers are text, integers, lists and dicts of them."""

    def __init__(self, client: redis.Redis) -> None:
        self.client: Any = client  # redis-py leaves execute_command untyped
        self._sources: set[str] = set()
        self._now = self.script(NOW + "return now()")

    @classmethod
    def connect(cls, url: str, *, retries: int = BRISK) -> Self:
        """A pool for *url*; no connection is made yet."""
        return cls(open_client(url, retries=retries, decode_responses=True))

    def call(self, *command: str | float) -> Any:
        """Send one command; raises RedisUnavailable."""
        try:
            return self.client.execute_command(*command)
        except _AWAY:
            raise RedisUnavailable from None

    def calls(self, commands: Sequence[Sequence[str | float]]) -> list[Any]:
        """Send several commands in one round trip, not as a transaction; raises RedisUnavailable."""
        pipeline = self.client.pipeline(transaction=False)
        for command in commands:
            pipeline.execute_command(*command)
        try:
            return list(pipeline.execute())
        except _AWAY:
            raise RedisUnavailable from None

    def script(self, source: str) -> Script:
        self._sources.add(source)
        return Script(self.client, source)

    def prepare(self) -> None:
        """Load every script that was made, each once and all in one turn; else each costs its first user two.

        Raises RedisUnavailable.
        """
        self.calls([["SCRIPT LOAD", source] for source in self._sources])

    def now(self) -> int:
        """Redis' time in ms since the epoch, never going back."""
        return int(self._now())

    def uptime(self) -> int:
        """Seconds since this Redis started."""
        return int(self.call("INFO", "server")["uptime_in_seconds"])

    def warnings(self) -> list[str]:
        """What in this server's configuration could lose jobs; empty if nothing, or if it will not say."""
        found = []
        with suppress(ResponseError):
            if self._configured("maxmemory-policy") != "noeviction":
                found.append("maxmemory-policy is not noeviction: Redis may throw jobs away when memory is short")
            if self._configured("appendonly") != "yes" and not self._configured("save"):
                found.append("neither appendonly nor save is configured: a restart of Redis loses the jobs")
        return found

    def _configured(self, name: str) -> str:
        return str(self.call("CONFIG", "GET", name).get(name, ""))

    def close(self) -> None:
        self.client.close()


def open_client(url: str, *, retries: int, decode_responses: bool) -> redis.Redis:
    """A redis-py client that retries lost connections with jitter, up to a second apart."""
    retry = Retry(
        ExponentialWithJitterBackoff(base=0.05, cap=1.0),
        retries,
        supported_errors=(RedisConnectionError, RedisTimeoutError),
    )
    client: redis.Redis = redis.Redis.from_url(
        url,
        decode_responses=decode_responses,
        retry=retry,
        socket_timeout=10,
        socket_connect_timeout=5,
        health_check_interval=30,
        # Three turns less for a new connection: nobody reads the library's name, and no server of ours moves.
        driver_info=None,
        maint_notifications_config=MaintNotificationsConfig(enabled=False),
    )
    return client
