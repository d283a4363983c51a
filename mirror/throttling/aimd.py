"""How many requests a registry is sent at once, agreed on by all workers: additive increase, multiplicative decrease.

Per registry and action there is one limit. Every process that asks the registry is a holder, and twice a second it
reports what it may use and is given its share. Shares are granted from what is left: what the others were granted, or
may still use, counts as taken, so that the sum of all shares never exceeds the limit, whoever joins when. A share that
becomes smaller is taken down here only with the holder's next report: until it knows of it, it goes by the old one. A
holder that is silent for `HOLDER_SECONDS` is dead and its share is free.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from mirror.redis import keys
from mirror.redis.client import NOW, Redis

START: Final = 32
MOST: Final = 64
MOST_OF_ONE: Final = 16
"""What one process has at most, so that a second one need not wait for the first to let go."""
HOLDER_SECONDS: Final = 5

_REPORT: Final = (
    NOW
    + f"""
-- KEYS: limit, holders, shares. ARGV: holder, what it may use, saturated, succeeded, troubled, the most; flags are 0
-- or 1. Answers the share, the limit, and how many seconds with trouble there were in a row.
local state, holders, shares = KEYS[1], KEYS[2], KEYS[3]
local holder, may_use, most = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[6])
local moment = now()

local function number(field, otherwise)
  return tonumber(redis.call('HGET', state, field) or otherwise)
end

for _, gone in ipairs(redis.call('ZRANGEBYSCORE', holders, '-inf', string.format('%d', moment))) do
  redis.call('HDEL', shares, gone)
  redis.call('ZREM', holders, gone)
end
redis.call('ZADD', holders, string.format('%d', moment + {HOLDER_SECONDS * 1000}), holder)
redis.call('HSETNX', shares, holder, 0)
local names = redis.call('HKEYS', shares)
table.sort(names)
local taken, own, rank = 0, tonumber(redis.call('HGET', shares, holder)), 0
for position, name in ipairs(names) do
  if name == holder then rank = position - 1
  else taken = taken + tonumber(redis.call('HGET', shares, name)) end
end

local limit = math.min(number('limit', {START}), most)
local halved = number('halved_at', 0)
if ARGV[5] == '1' then
  if moment - halved >= 1000 then
    limit = math.max(1, limit / 2)
    redis.call('HSET', state, 'halved_at', string.format('%d', moment))
    redis.call('HINCRBY', state, 'streak', 1)
  end
elseif ARGV[4] == '1' then
  if moment - halved >= 10000 then redis.call('HDEL', state, 'streak') end
  local used_up = ARGV[3] == '1' and taken + own >= math.floor(limit)
  if used_up and moment - math.max(halved, number('grown_at', 0)) >= 1000 then
    limit = math.min(most, limit + 1)
    redis.call('HSET', state, 'grown_at', string.format('%d', moment))
  end
end
redis.call('HSET', state, 'limit', tostring(limit))

local whole = math.floor(limit)
local fair = math.floor(whole / #names)
if rank < whole % #names then fair = fair + 1 end
local share = math.max(0, math.min(fair, whole - taken, {MOST_OF_ONE}))
redis.call('HSET', shares, holder, math.max(share, may_use))
redis.call('EXPIRE', state, 86400)
redis.call('EXPIRE', holders, 60)
redis.call('EXPIRE', shares, 60)
return {{share, tostring(limit), number('streak', 0)}}
"""
)
_LEAVE: Final = """
redis.call('ZREM', KEYS[1], ARGV[1])
redis.call('HDEL', KEYS[2], ARGV[1])
return 1
"""


@dataclass(frozen=True, slots=True)
class Usage:
    """What a holder reports: how many requests are under way, or may be before it is answered, and what has happened
    since it last did.
    """

    may_use: int = 0
    saturated: bool = False
    succeeded: bool = False
    troubled: bool = False


@dataclass(frozen=True, slots=True)
class Share:
    """What a holder may have under way, of a *limit* for all; *streak* counts the troubled seconds in a row."""

    slots: int
    limit: float
    streak: int


class AimdLimits:
    """The limits of all registries. *most* gives the highest limit of single registries, `MOST` is that of others."""

    def __init__(self, redis: Redis, most: Mapping[str, int]) -> None:
        self._most = most
        self._report = redis.script(_REPORT)
        self._leave = redis.script(_LEAVE)

    def most(self, registry: str) -> int:
        return self._most.get(registry, MOST)

    def report(self, registry: str, action: str, holder: str, usage: Usage) -> Share:
        """Keep *holder* among those who ask, and tell its share; raises RedisUnavailable.

        Trouble halves the limit, success with the share used up raises it by one; each at most once a second for all
        holders together, which is also what makes a report safe to be sent twice.
        """
        where = (registry, action)
        names = [keys.limiter("limit", *where), keys.limiter("holders", *where), keys.limiter("shares", *where)]
        flags = [int(flag) for flag in (usage.saturated, usage.succeeded, usage.troubled)]
        slots, limit, streak = self._report(names, [holder, usage.may_use, *flags, self.most(registry)])
        return Share(int(slots), float(limit), int(streak))

    def leave(self, registry: str, action: str, holder: str) -> None:
        """Give the holder's share back."""
        self._leave([keys.limiter("holders", registry, action), keys.limiter("shares", registry, action)], [holder])
