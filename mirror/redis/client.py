"""One way to speak to Redis: plain commands and scripts, patient or not, with one error.

Every script may run twice: a connection can break after Redis did the work and before its answer came, and the
command is then sent again. Scripts are written so that the second run finds the first and answers the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from math import inf
from typing import Any, Final, Self

import redis
from redis.commands.core import Script as RegisteredScript
from redis.exceptions import NoScriptError, RedisError, ResponseError
from redis.maint_notifications import MaintNotificationsConfig

from mirror.redis.failures import translated, trouble_of
from mirror.redis.retry import BRISK, FOREVER, PATIENT, RedisRetry
from mirror.redis.scripts import load_script

__all__ = ["BRISK", "FOREVER", "NOW", "PATIENT", "Redis", "Run", "Script", "open_client", "retry_of", "translated"]

NOW: Final = load_script("mirror.redis", "clock.lua")
"""Lua: Redis' own time in ms, which never goes back, so that no lease revives when a clock is set."""


_SEVERAL = """
local function run(KEYS, ARGV)
%s
end
-- ARGV: how many runs; for each how many keys and how many arguments it has; then all arguments. KEYS: all keys.
local answers, keys, args = {}, 0, 1 + 2 * tonumber(ARGV[1])
for i = 1, tonumber(ARGV[1]) do
  local names, values = tonumber(ARGV[2 * i]), tonumber(ARGV[2 * i + 1])
  -- An answer of nil would end the list. An error of one run is its own answer, but for a Redis that refuses to work.
  local ran, answer = pcall(run, {unpack(KEYS, keys + 1, keys + names)}, {unpack(ARGV, args + 1, args + values)})
  if not ran then
    local text = type(answer) == 'table' and answer.err or tostring(answer)
    local code = string.match(text, '^%%-?(%%u+) ')
    if code and code ~= 'ERR' and code ~= 'WRONGTYPE' then return redis.error_reply(text) end
    answer = redis.error_reply(text)
  end
  answers[i] = answer or false
  keys, args = keys + names, args + values
end
return answers
"""
_AT_ONCE: Final = 64
"""Runs of a script that all others wait for, about 2 ms."""

Run = tuple[Sequence[str], Sequence[str | float]]
"""The keys and the arguments of a script."""


class Script:
    """A Lua script that is loaded where it is missing, as after a restart of Redis."""

    def __init__(self, client: redis.Redis, source: str) -> None:
        self._script = client.register_script(source)
        self._several = client.register_script(_SEVERAL % source)

    @property
    def sources(self) -> tuple[str, str]:
        """What Redis is to know of it: for one run, and for many."""
        return str(self._script.script), str(self._several.script)

    def __call__(self, keys: Sequence[str] = (), args: Sequence[str | float] = ()) -> Any:
        """Run the script; raises RedisUnavailable."""
        return _run(self._script, keys, args)

    def many(self, runs: Sequence[Run]) -> list[Any]:
        """Run the script once for each (keys, args), in that order, in a turn for every few dozen.

        Raises RedisUnavailable, or the error of one run; then any of the runs may have been made. Measured for 32 runs:
        50 us each, of which 13 are this process's CPU, against 80 and 28 as commands of a pipeline.
        """
        answers = self.each(runs)
        for answer in answers:
            if isinstance(answer, ResponseError):
                raise answer
        return answers

    def each(self, runs: Sequence[Run]) -> list[Any]:
        """As `many`, but an error of one run is a ResponseError in the place of its answer, and the others count."""
        if len(runs) == 1:
            try:
                return [self(*runs[0])]
            except ResponseError as error:
                return [error]
        answers = []
        for begin in range(0, len(runs), _AT_ONCE):
            together = runs[begin : begin + _AT_ONCE]
            counts = [len(part) for run in together for part in run]
            names = [name for keys, _ in together for name in keys]
            args = [arg for _, args in together for arg in args]
            answers += _faults_alone(_run(self._several, names, [len(together), *counts, *args]))
        return answers


def _faults_alone(answers: Sequence[Any]) -> list[Any]:
    """Answers with ResponseErrors among them, none of which says that Redis refuses to work.

    Raises RedisUnavailable for one that does: that is no fault of the command.
    """
    with translated():
        for answer in answers:
            if isinstance(answer, RedisError) and trouble_of(answer) is not None:
                raise answer
    return list(answers)


def _run(script: RegisteredScript, keys: Sequence[str], args: Sequence[str | float]) -> Any:
    """By its hash; by its text where Redis does not know that, as after a restart or SCRIPT FLUSH.

    One command does the latter. Redis could restart once more between loading a script and running it.
    """
    client = script.registered_client
    with translated():
        try:
            return client.evalsha(script.sha, len(keys), *keys, *args)
        except NoScriptError:
            return client.eval(str(script.script), len(keys), *keys, *args)


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
        with translated():
            return self.client.execute_command(*command)

    def calls(self, commands: Sequence[Sequence[str | float]]) -> list[Any]:
        """Send several commands in one round trip, not as a transaction; raises RedisUnavailable."""
        pipeline = self.client.pipeline(transaction=False)
        for command in commands:
            pipeline.execute_command(*command)
        with translated():
            return list(pipeline.execute())

    def answers(self, commands: Sequence[Sequence[str | float]]) -> list[Any]:
        """As `calls`, but an error of one command is a ResponseError in the place of its answer."""
        pipeline = self.client.pipeline(transaction=False)
        for command in commands:
            pipeline.execute_command(*command)
        with translated():
            return _faults_alone(pipeline.execute(raise_on_error=False))

    def script(self, source: str) -> Script:
        script = Script(self.client, source)
        self._sources.update(script.sources)
        return script

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

    def seconds_since_failure(self) -> float:
        """How long ago this process last failed to have something done by Redis; infinity if it never did."""
        retry = retry_of(self.client)
        return retry.outage.seconds_since_failure() if retry else inf

    def warnings(self) -> list[str]:
        """What in this server's configuration could lose jobs; empty if nothing, or if it will not say."""
        found = []
        with translated(), suppress(ResponseError):  # many a hosted Redis does not allow CONFIG
            if self._configured("maxmemory-policy") != "noeviction":
                found.append("maxmemory-policy is not noeviction: Redis may throw jobs away when memory is short")
            if self._configured("appendonly") != "yes" and not self._configured("save"):
                found.append("neither appendonly nor save is configured: a restart of Redis loses the jobs")
        return found

    def _configured(self, name: str) -> str:
        return str(self.client.execute_command("CONFIG", "GET", name).get(name, ""))

    def close(self) -> None:
        self.client.close()


def open_client(url: str, *, retries: int, decode_responses: bool) -> redis.Redis:
    """A redis-py client that waits out lost connections and a Redis that refuses to work (`RedisRetry`)."""
    client: redis.Redis = redis.Redis.from_url(
        url,
        decode_responses=decode_responses,
        retry=RedisRetry(url, retries),
        socket_timeout=10,
        socket_connect_timeout=5,
        health_check_interval=30,
        # Three turns less for a new connection: nobody reads the library's name, and no server of ours moves.
        driver_info=None,
        maint_notifications_config=MaintNotificationsConfig(enabled=False),
    )
    return client


def retry_of(client: redis.Redis) -> RedisRetry | None:
    """What `open_client` gave the client for its retries; None for a client that was made elsewhere."""
    retry = client.get_retry()
    return retry if isinstance(retry, RedisRetry) else None
