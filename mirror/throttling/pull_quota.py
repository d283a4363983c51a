"""The ledger of pull limits: what registries have told, less what has been reserved and not answered yet.

One ledger per account: registry, credential and egress. Many workers read and write it, and answers overtake each other
on their way, so what is told counts only where it can be true now: less than before always, more than before only from
a request that was sent after the last news. A reservation stands until its own answer is told, is given back, or
expires with the worker that made it.

The limit's window is taken for a fixed one that began when it was first seen used. Where it turns out to roll, its
length is waited for in twentieths.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from mirror.errors import LONGEST_REST
from mirror.redis import keys
from mirror.redis.client import NOW, Redis

RESERVED_SECONDS: Final = 120
COST_SECONDS: Final = 7 * 86400
_LONGEST_MS: Final = int(LONGEST_REST * 1000)
"""A window is taken for no longer than this, whoever wrote it, and its ledger is kept for twice as long."""

Account = tuple[str, str, str]
"""Registry, credential and egress."""

_LIBRARY: Final = (
    NOW
    + f"""
local ledger, reserved, moment = KEYS[1], KEYS[2], now()
local function number(field) return tonumber(redis.call('HGET', ledger, field) or '') end
local function note(field, value) redis.call('HSET', ledger, field, string.format('%d', value)) end
local function window_of(ms) return ms and math.min(ms, {_LONGEST_MS}) end
local function bound_lifetime()
  if redis.call('PTTL', ledger) > {2 * _LONGEST_MS} then redis.call('PEXPIRE', ledger, {2 * _LONGEST_MS}) end
end
local function wait(window)
  local started = number('started')
  local left = started and started + window - moment or 0
  if left > 0 then return left end
  return math.min(math.max(window / 20, 1000), 300000)
end
"""
)
_TELL: Final = (
    _LIBRARY
    + """
-- KEYS: ledger, reserved, limited. ARGV: limit, window ms, remaining, ms since the request was sent, unit or empty.
local limit, window, remaining = tonumber(ARGV[1]), window_of(tonumber(ARGV[2])), tonumber(ARGV[3])
local before, told_at, started = number('remaining'), number('told_at') or 0, number('started')
if ARGV[5] ~= '' then redis.call('ZREM', reserved, ARGV[5]) end
if not before or remaining <= before or moment - ARGV[4] >= told_at then
  if before and remaining > before then started = nil end
  if before and remaining < before and started and moment >= started + window then started = nil end
  if remaining >= limit then started = nil elseif not started then started = moment end
  note('limit', limit) note('window', window) note('remaining', remaining) note('told_at', moment)
  if started then note('started', started) else redis.call('HDEL', ledger, 'started') end
end
local ttl = string.format('%d', math.max(2 * window, 3600000))
redis.call('PEXPIRE', ledger, ttl)
redis.call('SET', KEYS[3], 1, 'PX', ttl)
return 1
"""
)
_RESERVE: Final = (
    _LIBRARY
    + f"""
-- ARGV: whether the registry was asked just now, units. Answers whether they are reserved, ms to wait, ms since the
-- last news (-1 where there is no limit), and whether it only depends on answers under way, which may be in the last
-- news already.
local limit = number('limit')
if not limit then return {{1, 0, -1, 0}} end
bound_lifetime()
local window = window_of(number('window'))
local told_ago = moment - number('told_at')
redis.call('ZREMRANGEBYSCORE', reserved, '-inf', string.format('%d', moment))
local units = {{unpack(ARGV, 2)}}
local started = number('started')
if ARGV[1] == '1' and started and moment >= started + window and number('told_at') < started + window then
  note('remaining', limit)
  redis.call('HDEL', ledger, 'started')
end
if not redis.call('ZSCORE', reserved, units[1]) then
  local remaining, needed = number('remaining'), math.min(#units, limit)
  if remaining < needed then return {{0, math.floor(wait(window)), told_ago, 0}} end
  if remaining - redis.call('ZCARD', reserved) < needed then
    local first = redis.call('ZRANGE', reserved, 0, 0, 'WITHSCORES')
    return {{0, tonumber(first[2]) - moment, told_ago, 1}}
  end
  for _, unit in ipairs(units) do
    redis.call('ZADD', reserved, string.format('%d', moment + {RESERVED_SECONDS * 1000}), unit)
  end
  redis.call('EXPIRE', reserved, {RESERVED_SECONDS})
end
return {{1, 0, told_ago, 0}}
"""
)
_SPEND: Final = (
    _LIBRARY
    + """
-- ARGV: a unit that was spent without news. The second time it is not there.
if redis.call('ZREM', reserved, ARGV[1]) == 1 and number('remaining') then
  note('remaining', math.max(0, number('remaining') - 1))
end
return 1
"""
)
_USED_UP: Final = (
    _LIBRARY
    + """
-- Answers the ms to wait, -1 where no limit was ever told.
bound_lifetime()
local window, started = window_of(number('window')), number('started')
if not window then return -1 end
if not started or moment >= started + window then note('started', moment) end
note('remaining', 0) note('told_at', moment)
return math.floor(wait(window))
"""
)


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether units were reserved; if not, the seconds to wait. *told_ago* is how old the last news is, in seconds.

    It is *undecided* where other workers' answers under way decide, which they will do in a moment, or at the latest
    after *wait*, when what a dead worker has reserved is free again.
    """

    granted: bool
    wait: float = 0.0
    told_ago: float = 0.0
    undecided: bool = False


class QuotaLedger:
    """The ledgers of all accounts; every method raises RedisUnavailable."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._tell = redis.script(_TELL)
        self._reserve = redis.script(_RESERVE)
        self._spend = redis.script(_SPEND)
        self._used_up = redis.script(_USED_UP)

    def is_limited(self, registry: str) -> bool:
        """Whether the registry has told anybody of a limit."""
        key = keys.quota("limited", registry)
        left = int(self._redis.call("PTTL", key))
        if left > 2 * _LONGEST_MS:
            self._redis.call("PEXPIRE", key, 2 * _LONGEST_MS)
        return left != -2  # what Redis says of a key that is not there

    def tell(
        self, account: Account, *, limit: int, window: float, remaining: int, elapsed: float, unit: str | None
    ) -> None:
        """What an answer told, whose request was sent *elapsed* seconds ago and had reserved *unit*, if any."""
        args: list[str | float] = [limit, int(window * 1000), remaining, int(elapsed * 1000), unit or ""]
        self._tell([*_keys(account), keys.quota("limited", account[0])], args)

    def reserve(self, account: Account, units: Sequence[str], *, asked: bool) -> Verdict:
        """Reserve all *units* or none. More than the whole limit are granted when the whole limit is there.

        Where the registry was *asked* just now and the last news is still from a window that has ended, its HEADs tell
        nothing: then a new window is taken to have begun.
        """
        granted, wait, told_ago, undecided = self._reserve(_keys(account), [int(asked), *units])
        return Verdict(bool(granted), wait / 1000, told_ago / 1000, bool(undecided))

    def spend(self, account: Account, unit: str) -> None:
        """The unit was spent, and the answer told nothing of what is left."""
        self._spend(_keys(account), [unit])

    def give_back(self, account: Account, units: Sequence[str]) -> None:
        """The units were not spent."""
        self._redis.call("ZREM", keys.quota("reserved", *account), *units)

    def used_up(self, account: Account) -> float | None:
        """The registry refused a read for its limit's sake. Seconds until its window ends; None if it told of none."""
        wait = int(self._used_up(_keys(account)))
        return None if wait < 0 else wait / 1000

    def cost(self, digest: str) -> int:
        """How many manifests the image was found to have, 1 if nobody knows."""
        return int(self._redis.call("GET", keys.quota("cost", digest)) or 1)

    def note_cost(self, digest: str, manifests: int) -> None:
        self._redis.call("SET", keys.quota("cost", digest), manifests, "EX", COST_SECONDS)


def _keys(account: Account) -> list[str]:
    return [keys.quota("ledger", *account), keys.quota("reserved", *account)]
