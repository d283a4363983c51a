"""Pins: who counts on which blobs, so that no collector deletes a blob that a copy has just found to be there.

One pair of scripts decides, each atomic in Redis: `pin` refuses a digest that is being deleted, `begin_delete` refuses
a digest that a living holder has pinned. Hence the order everywhere: pin, then HEAD, then links, then the tag. A holder
lives as long as it renews one key, whatever the number of its pins; a dead holder's pins are void at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from mirror.errors import BlobBeingDeleted
from mirror.oci.digest import Digest
from mirror.redis import keys
from mirror.redis.client import NOW, Redis

HOLDER_SECONDS: Final = 300
"""How long a holder's pins stand after its last renewal."""
_BATCH: Final = 500

_PIN = (
    NOW
    + f"""
local moment = now()
for i = 3, #ARGV do
  local until_ms = redis.call('ZSCORE', '{keys.PINS_DELETING}', ARGV[i])
  if until_ms and tonumber(until_ms) > moment then return ARGV[i] end
end
for i = 3, #ARGV do
  local pin = '{keys.PIN}' .. ARGV[i]
  redis.call('SADD', pin, ARGV[1])
  redis.call('EXPIRE', pin, 86400)
end
redis.call('SET', '{keys.PIN_HOLDER}' .. ARGV[1], 1, 'PX', ARGV[2])
return false
"""
)
_UNPIN = f"""
for i = 2, #ARGV do redis.call('SREM', '{keys.PIN}' .. ARGV[i], ARGV[1]) end
return 1
"""
_BEGIN_DELETE = (
    NOW
    + f"""
local pin = '{keys.PIN}' .. ARGV[1]
for _, holder in ipairs(redis.call('SMEMBERS', pin)) do
  if redis.call('EXISTS', '{keys.PIN_HOLDER}' .. holder) == 1 then return 0 end
  redis.call('SREM', pin, holder)
end
redis.call('ZADD', '{keys.PINS_DELETING}', string.format('%d', now() + ARGV[2]), ARGV[1])
return 1
"""
)


class Pins:
    """The pins of all machines."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._pin = redis.script(_PIN)
        self._unpin = redis.script(_UNPIN)
        self._begin_delete = redis.script(_BEGIN_DELETE)

    def pin(self, holder: str, digests: Sequence[Digest]) -> None:
        """Pin all of *digests* for *holder*; raises BlobBeingDeleted for the first that is being deleted."""
        for start in range(0, len(digests), _BATCH):
            batch = [str(digest) for digest in digests[start : start + _BATCH]]
            refused = self._pin(args=[holder, HOLDER_SECONDS * 1000, *batch])
            if refused:
                raise BlobBeingDeleted(str(refused))

    def renew(self, holder: str) -> bool:
        """Keep the holder's pins for another `HOLDER_SECONDS`; False if they were void already."""
        return bool(self._redis.call("EXPIRE", keys.pin_holder(holder), HOLDER_SECONDS))

    def release(self, holder: str) -> None:
        """Void all the holder's pins."""
        self._redis.call("DEL", keys.pin_holder(holder))

    def unpin(self, holder: str, digests: Sequence[Digest]) -> None:
        """Take the holder's pins off *digests*, which it does not count on any more.

        `release` alone voids them too. But each costs Redis 200 bytes for a day, and an image may name 100 000.
        """
        for start in range(0, len(digests), _BATCH):
            self._unpin(args=[holder, *(str(digest) for digest in digests[start : start + _BATCH])])

    def begin_delete(self, digest: Digest, seconds: float) -> bool:
        """The right to delete the blob within *seconds*; False while anybody alive has pinned it."""
        return bool(self._begin_delete(args=[str(digest), int(seconds * 1000)]))

    def end_delete(self, digest: Digest) -> None:
        """The blob is gone, or was left: it may be pinned again."""
        self._redis.call("ZREM", keys.PINS_DELETING, str(digest))
