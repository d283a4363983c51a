"""A breaker per registry, shared by all workers: a dead registry does not occupy them.

    closed ──5 failures in a row within a minute──► open ──15 s, doubling to 5 min──► half-open ──success──► closed
                                                     ▲                                   │
                                                     └───────── its one probe fails ─────┘

Its record also remembers when the registry last answered with what was asked for. One that did in the last 30 days is
known to work, and is waited for; for any other, say a mistyped host, nobody waits. It says what the last failure was,
and whether the registry answers HEADs of manifests, so that no worker has to find out again for `HEADLESS_SECONDS`.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from random import uniform
from time import monotonic
from typing import Any, Final

from mirror.redis import keys
from mirror.redis.client import NOW, Redis

FAILURES: Final = 5
OPEN_SECONDS: Final = 15.0
LONGEST_OPEN: Final = 300.0
PROBE_SECONDS: Final = 60.0
KNOWN_SECONDS: Final = 30 * 86400
HEADLESS_SECONDS: Final = 900.0
"""Seconds for which nobody sends HEADs of manifests to a registry whose HEADs told nothing where a GET worked."""
_LONGEST_CAUSE: Final = 500
_MINUTE: Final = 60.0
_SHORT: Final = 0.25

_LIBRARY: Final = (
    NOW
    + f"""
local key, moment = KEYS[1], now()
local function number(field) return tonumber(redis.call('HGET', key, field) or '') end
local function note(field, value) redis.call('HSET', key, field, string.format('%d', value)) end
local function known()
  local answered = number('answered_at')
  return (answered and moment - answered <= {KNOWN_SECONDS * 1000}) and 1 or 0
end
local function outage(wait)
  local found = redis.call('HMGET', key, 'cause', 'cause_answered')
  return {{known(), wait, found[1] or '', found[2] == '1' and 1 or 0}}
end
"""
)
_PERMIT: Final = (
    _LIBRARY
    + f"""
-- ARGV: a token of this question. Answers the outage where it may not be asked. Else {{failures, ms for which HEADs are
-- of no use}}, with -1 failures for the probe.
local open_until = number('open_until')
local headless = math.max(0, (number('headless_until') or 0) - moment)
if not open_until then return {{number('failures') or 0, headless}} end
if moment < open_until then return outage(open_until - moment) end
if moment < (number('probe_until') or 0) and redis.call('HGET', key, 'prober') ~= ARGV[1] then return outage(5000) end
note('probe_until', moment + {PROBE_SECONDS * 1000:.0f})
redis.call('HSET', key, 'prober', ARGV[1])
return {{-1, headless}}
"""
)
_UNDECIDED: Final = (
    _LIBRARY
    + """
-- The probe told nothing: the next request may be one.
redis.call('HDEL', key, 'probe_until', 'prober')
return 1
"""
)
_HEADLESS: Final = (
    _LIBRARY
    + f"""
note('headless_until', moment + {HEADLESS_SECONDS * 1000:.0f})
if redis.call('TTL', key) < {HEADLESS_SECONDS:.0f} then redis.call('EXPIRE', key, {HEADLESS_SECONDS:.0f}) end
return 1
"""
)
_FAILED: Final = (
    _LIBRARY
    + f"""
-- ARGV: a token of this failure, jitter around 1, its cause, 1 if that was an answer. Answers the outage.
local open_until = number('open_until')
redis.call('HSET', key, 'cause', ARGV[3], 'cause_answered', ARGV[4])
if redis.call('HGET', key, 'failure') ~= ARGV[1] then
  redis.call('HSET', key, 'failure', ARGV[1])
  if moment - (number('counted_since') or 0) > {_MINUTE * 1000:.0f} then
    note('counted_since', moment)
    note('failures', 0)
  end
  local failures = redis.call('HINCRBY', key, 'failures', 1)
  local opened = number('opened') or 0
  if (open_until and moment >= open_until) or (not open_until and failures >= {FAILURES}) then
    local seconds = {OPEN_SECONDS}
    if known() == 1 then seconds = math.min({LONGEST_OPEN}, seconds * 2 ^ opened) end
    open_until = moment + seconds * 1000 * ARGV[2]
    note('open_until', open_until)
    note('opened', opened + 1)
    redis.call('HDEL', key, 'probe_until', 'prober')
  end
end
redis.call('EXPIRE', key, known() == 1 and {KNOWN_SECONDS} or 3600)
return outage(math.max(1000, math.floor((open_until or moment + {OPEN_SECONDS * 1000:.0f} * ARGV[2]) - moment)))
"""
)
_ANSWERED: Final = (
    _LIBRARY
    + f"""
-- ARGV: 1 if it answered with what was asked for.
redis.call('HDEL', key, 'failures', 'counted_since', 'open_until', 'opened', 'probe_until', 'prober', 'cause',
           'cause_answered')
if ARGV[1] == '1' then note('answered_at', moment) end
redis.call('EXPIRE', key, {KNOWN_SECONDS})
return 1
"""
)


@dataclass(frozen=True, slots=True)
class Outage:
    """A registry that does not serve: whether it is *known* to work, and the seconds until it is asked again.

    *cause* says what the last failure was, and *answered* whether that was an answer of the registry.
    """

    known: bool
    wait: float
    cause: str = ""
    answered: bool = False


@dataclass(slots=True)
class _Seen:
    """What this process last knew, so that a request seldom asks Redis. Who asks or writes holds the lock, and those
    who come meanwhile go by what it learns; but they do not wait for a Redis that is silent.
    """

    permitted_at: float = -_MINUTE
    failures: int = 1
    noted_at: float = -_MINUTE
    probing: bool = False
    headless_until: float = 0.0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def is_permitted(self) -> bool:
        return monotonic() - self.permitted_at < 1.0

    def is_news(self, *, served: bool) -> bool:
        return bool(self.failures) or (served and monotonic() - self.noted_at >= _MINUTE)

    @contextmanager
    def alone(self) -> Iterator[None]:
        held = self.lock.acquire(timeout=_SHORT)
        try:
            yield
        finally:
            if held:
                self.lock.release()


class CircuitBreaker:
    """The breakers of all registries; every method raises RedisUnavailable. Safe to share between threads."""

    def __init__(self, redis: Redis) -> None:
        self._permit = redis.script(_PERMIT)
        self._failed = redis.script(_FAILED)
        self._answered = redis.script(_ANSWERED)
        self._undecided = redis.script(_UNDECIDED)
        self._headless = redis.script(_HEADLESS)
        self._lock = threading.Lock()
        self._seen: dict[str, _Seen] = {}

    def permit(self, registry: str) -> Outage | None:
        """None if the registry may be asked; at most a second old where it may."""
        seen = self._of(registry)
        if seen.is_permitted():
            return None
        with seen.alone():
            if seen.is_permitted():
                return None
            answer = self._permit([keys.breaker(registry)], [secrets.token_hex(8)])
            if len(answer) > 2:
                return _outage(answer)
            failures, headless = int(answer[0]), int(answer[1])
            seen.probing = failures < 0
            seen.failures, seen.permitted_at = abs(failures), -_MINUTE if seen.probing else monotonic()
            seen.headless_until = monotonic() + headless / 1000
        return None

    def failed(self, registry: str, cause: str = "", *, answered: bool = False) -> Outage:
        """Count a failure to reach the registry, or to be served by it at all; *cause* says which."""
        seen = self._of(registry)
        seen.failures, seen.permitted_at, seen.probing = 1, -_MINUTE, False
        jitter = uniform(0.8, 1.2)  # noqa: S311 - spreads probes, guards nothing
        args: list[str | float] = [secrets.token_hex(8), jitter, cause[:_LONGEST_CAUSE], int(answered)]
        return _outage(self._failed([keys.breaker(registry)], args))

    def undecided(self, registry: str) -> None:
        """The request that was permitted told nothing about the registry: another one decides."""
        seen = self._of(registry)
        if seen.probing:
            seen.probing = False
            self._undecided([keys.breaker(registry)], [])

    def note_headless(self, registry: str) -> None:
        """A GET of a manifest worked where a HEAD had told nothing."""
        self._of(registry).headless_until = monotonic() + HEADLESS_SECONDS
        self._headless([keys.breaker(registry)], [])

    def is_headless(self, registry: str) -> bool:
        """Whether HEADs of manifests are of no use there, as far as the last `permit` told."""
        return monotonic() < self._of(registry).headless_until

    def answered(self, registry: str, *, served: bool) -> None:
        """The registry can be reached; *served* if it gave what was asked for. Written at most once a minute."""
        seen = self._of(registry)
        if not seen.is_news(served=served):
            return
        with seen.alone():
            if not seen.is_news(served=served):
                return
            self._answered([keys.breaker(registry)], [int(served)])
            seen.failures = 0
            if served:
                seen.noted_at = monotonic()

    def _of(self, registry: str) -> _Seen:
        with self._lock:
            return self._seen.setdefault(registry, _Seen())


def _outage(answer: list[Any]) -> Outage:
    known, wait, cause, answered = answer
    return Outage(bool(known), int(wait) / 1000, str(cause), bool(answered))
