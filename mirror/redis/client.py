"""The client of Redis: commands, pipelines and scripts.

A Redis that is away or refuses to work raises one error.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from math import inf
from typing import Any, Final, Self

import redis
from redis.exceptions import ResponseError
from redis.maint_notifications import MaintNotificationsConfig

from mirror.redis.failures import BRISK, RedisRetry, raise_refusals, translated
from mirror.redis.scripts import Script, load_script

_TIMEOUT: Final = 10.0
_CONNECT_TIMEOUT: Final = 5.0
_NOW: Final = load_script("mirror.redis", "now.lua")
_READ_NOW: Final = load_script("mirror.redis", "read_now.lua")


class Redis:
    """A connection pool. Replies are text, integers, and lists and dicts of them.

    Every method that sends a command raises RedisUnavailable.
    """

    def __init__(self, client: redis.Redis) -> None:
        self.client: Any = client  # redis-py leaves execute_command untyped
        self._sources: set[str] = set()
        self._now = self.script(_NOW)
        self._read_now = self.script(_READ_NOW)

    @classmethod
    def connect(cls, url: str, *, retries: int = BRISK, timeout: float = _TIMEOUT) -> Self:
        """Return a client with a pool for *url*. It makes no connection yet.

        *timeout* is how long, in seconds, it waits for a reply.
        """
        return cls(open_client(url, retries=retries, decode_responses=True, timeout=timeout))

    def call(self, *command: str | float) -> Any:
        """Send one command and return its reply."""
        with translated():
            return self.client.execute_command(*command)

    def calls(self, commands: Sequence[Sequence[str | float]], *, raise_on_error: bool = True) -> list[Any]:
        """Send several commands in one round trip, not as a transaction.

        Raises the first error of a command. Without *raise_on_error*, a command that failed has its ResponseError in
        place of its reply.
        """
        pipeline = self.client.pipeline(transaction=False)
        for command in commands:
            pipeline.execute_command(*command)
        with translated():
            return raise_refusals(pipeline.execute(raise_on_error=raise_on_error))

    def script(self, source: str) -> Script:
        """Register a script that `load_script` returned. Nothing is sent yet."""
        script = Script(self.client, source)
        self._sources.update(script.sources)
        return script

    def prepare(self) -> None:
        """Load every registered script in one round trip.

        Otherwise the first run of each takes two.
        """
        self.calls([["SCRIPT LOAD", source] for source in self._sources])

    def now(self) -> int:
        """Return Redis' time in ms since the epoch. It never goes back."""
        return int(self._now())

    def read_now(self) -> int:
        """Return what `now` returns, and write nothing. So it works with a Redis that takes no writes."""
        return int(self._read_now())

    def uptime(self) -> int:
        """Return the seconds since this Redis started.

        Redis measures them with its wall clock. If the clock was set back since the start, they may be negative. Their
        absolute value is returned.
        """
        return abs(int(self.call("INFO", "server")["uptime_in_seconds"]))

    def seconds_since_failure(self) -> float:
        """Return the seconds since Redis last failed this process.

        Infinity if it never did.
        """
        retry = RedisRetry.of(self.client)
        return retry.seconds_since_failure() if retry else inf

    def warnings(self) -> list[str]:
        """Return what in Redis' configuration could lose jobs.

        Empty if Redis does not allow CONFIG.
        """
        found = []
        with translated(), suppress(ResponseError):
            if self._configured("maxmemory-policy") != "noeviction":
                found.append("maxmemory-policy is not noeviction: Redis may throw jobs away when memory is short")
            if self._configured("appendonly") != "yes" and not self._configured("save"):
                found.append("neither appendonly nor save is configured: a restart of Redis loses the jobs")
        return found

    def _configured(self, name: str) -> str:
        return str(self.client.execute_command("CONFIG", "GET", name).get(name, ""))

    def close(self) -> None:
        self.client.close()


def open_client(url: str, *, retries: int, decode_responses: bool, timeout: float = _TIMEOUT) -> redis.Redis:
    """Return a redis-py client with a `RedisRetry`. It makes no connection yet."""
    client: redis.Redis = redis.Redis.from_url(
        url,
        decode_responses=decode_responses,
        retry=RedisRetry(url, retries),
        socket_timeout=timeout,
        socket_connect_timeout=min(timeout, _CONNECT_TIMEOUT),
        health_check_interval=30,
        # Saves three round trips for a new connection: the library's name, and notices of a server that moves.
        driver_info=None,
        maint_notifications_config=MaintNotificationsConfig(enabled=False),
    )
    return client
