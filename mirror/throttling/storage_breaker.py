"""A breaker for the bucket, shared by all workers: while S3 takes no writes, nothing is read from a source for it.

    closed ──a task's write fails──► open ──5 s, doubling to 60 s──► half-open ──its one trial succeeds──► closed
                                      ▲                                   │
                                      └────────── the trial fails ────────┘

Without it every task that waits for a full disk would read its image anew, again and again, to learn that there is
still no space.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import uniform
from typing import Final

from mirror.redis import keys
from mirror.redis.client import NOW, Redis

OPEN_SECONDS: Final = 5.0
LONGEST_OPEN: Final = 60.0
TRIAL_SECONDS: Final = 15.0
_FORGOTTEN_SECONDS: Final = 3600

_ADMIT: Final = (
    NOW
    + f"""
-- ARGV: a token of the task. Answers whether it may go on: 0 no, 1 yes, 2 as the trial; and the ms until the next one.
local key, moment = KEYS[1], now()
local found = redis.call('HMGET', key, 'next', 'trial')
local opens = tonumber(found[1] or '')
if not opens then return {{1, 0}} end
if found[2] == ARGV[1] then return {{2, 0}} end
if moment < opens then return {{0, opens - moment}} end
redis.call('HSET', key, 'trial', ARGV[1], 'next', string.format('%d', moment + {TRIAL_SECONDS * 1000:.0f}))
return {{2, 0}}
"""
)
_FAILED: Final = (
    NOW
    + f"""
-- ARGV: token, bytes of the write that failed, code, action, reason, jitter around 1.
-- Failures that come together count as one. Answers the ms until the next trial.
local key, moment = KEYS[1], now()
local found = redis.call('HMGET', key, 'next', 'trial', 'failures', 'size')
local opens = tonumber(found[1] or '')
if not opens or moment >= opens or found[2] == ARGV[1] then
  local failures = tonumber(found[3] or '0') + 1
  local wait = math.min({LONGEST_OPEN * 1000:.0f}, {OPEN_SECONDS * 1000:.0f} * 2 ^ math.min(failures - 1, 10))
  opens = math.floor(moment + wait * ARGV[6])
  redis.call('HSET', key, 'next', string.format('%d', opens), 'failures', failures, 'trial', '')
end
redis.call('HSETNX', key, 'since', string.format('%d', moment))
redis.call('HSET', key, 'code', ARGV[3], 'action', ARGV[4], 'reason', ARGV[5],
           'size', string.format('%d', math.max(tonumber(found[4] or '0'), ARGV[2])))
redis.call('EXPIRE', key, {_FORGOTTEN_SECONDS})
return opens - moment
"""
)
_SUCCEEDED: Final = """
-- ARGV: token of the trial.
if redis.call('HGET', KEYS[1], 'trial') == ARGV[1] then return redis.call('DEL', KEYS[1]) end
return 0
"""


@dataclass(frozen=True, slots=True)
class StorageTrouble:
    """The last failure: what its error said, and the bytes of the largest write that failed."""

    code: str
    action: str
    reason: str
    size: int = 0


@dataclass(frozen=True, slots=True)
class WritePermit:
    """``wait`` is None for a task that may go on, else the seconds until that is worth asking again."""

    wait: float | None = None
    is_trial: bool = False


class StorageBreaker:
    """Every method raises RedisUnavailable. Safe to share between threads."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._admit = redis.script(_ADMIT)
        self._failed = redis.script(_FAILED)
        self._succeeded = redis.script(_SUCCEEDED)

    def admit(self, token: str) -> WritePermit:
        """Whether the task that *token* names may begin to write; one at a time may while the breaker is open."""
        verdict, wait = self._admit([keys.STORAGE_TROUBLE], [token])
        return WritePermit(wait / 1000 if verdict == 0 else None, verdict == 2)

    def failed(self, token: str, trouble: StorageTrouble) -> float:
        """Open the breaker. Returns the seconds until the next trial."""
        jitter = uniform(0.9, 1.1)  # noqa: S311 - spreads trials, guards nothing
        told: list[str | float] = [token, trouble.size, trouble.code, trouble.action, trouble.reason, jitter]
        return float(self._failed([keys.STORAGE_TROUBLE], told)) / 1000

    def succeeded(self, token: str) -> None:
        """Close the breaker, if *token* names its trial."""
        self._succeeded([keys.STORAGE_TROUBLE], [token])

    def trouble(self) -> StorageTrouble | None:
        """What opened the breaker; None while it is closed. Writes nothing."""
        found = self._redis.call("HGETALL", keys.STORAGE_TROUBLE)
        if not found:
            return None
        return StorageTrouble(found["code"], found["action"], found["reason"], int(found["size"]))
