"""Pins: which blobs a copy relies on.

No garbage collector deletes a blob that a copy has just found.

Two scripts decide, and Redis runs each of them alone. `pin` refuses a digest that is being deleted. `begin_delete`
refuses a digest that a living holder has pinned. So a copy always pins first, then sends the HEAD, then writes
links, then the tag. A holder lives as long as it renews one key, whatever the number of its pins. The pins of a dead
holder do not count.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from mirror.errors import BlobBeingDeleted
from mirror.oci.digest import Digest
from mirror.redis import keys
from mirror.redis.client import Redis
from mirror.redis.scripts import load_script

HOLDER_SECONDS: Final = 300
"""Seconds for which a holder's pins count after its last renewal."""
_BATCH: Final = 500

_CONSTANTS: Final = {"HOLDER_SECONDS": HOLDER_SECONDS, "PIN_SECONDS": 86400}
_PIN: Final = load_script("mirror.locks", "pin.lua", constants=_CONSTANTS)
_UNPIN: Final = load_script("mirror.locks", "unpin.lua")
_BEGIN_DELETE: Final = load_script("mirror.locks", "begin_delete.lua", constants=_CONSTANTS)


class Pins:
    """The pins of all machines. Every method raises RedisUnavailable."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._pin = redis.script(_PIN)
        self._unpin = redis.script(_UNPIN)
        self._begin_delete = redis.script(_BEGIN_DELETE)

    def pin(self, holder: str, digests: Sequence[Digest]) -> None:
        """Pin all *digests* for *holder*.

        Raises BlobBeingDeleted for the first one that is being deleted.
        """
        for batch in _batches(digests):
            refused = self._pin(args=[holder, *batch])
            if refused:
                raise BlobBeingDeleted(str(refused))

    def renew(self, holder: str) -> bool:
        """Keep the holder's pins for another `HOLDER_SECONDS`.

        Return False if they had expired.
        """
        return bool(self._redis.call("EXPIRE", keys.pin_holder(holder), HOLDER_SECONDS))

    def release(self, holder: str) -> None:
        """Make all pins of the holder void."""
        self._redis.call("DEL", keys.pin_holder(holder))

    def unpin(self, holder: str, digests: Sequence[Digest]) -> None:
        """Remove the holder's pins from *digests*.

        `release` makes them void too. But each pin costs Redis 200 bytes for a day, and an image may name 100 000.
        """
        for batch in _batches(digests):
            self._unpin(args=[holder, *batch])

    def begin_delete(self, digest: Digest, seconds: float) -> bool:
        """Take the right to delete the blob within *seconds*.

        Return False while a living holder has pinned it.
        """
        return bool(self._begin_delete(args=[str(digest), int(seconds * 1000)]))

    def end_delete(self, digest: Digest) -> None:
        """Give up the right to delete the blob, which may be pinned again."""
        self._redis.call("ZREM", keys.PINS_DELETING, str(digest))


def _batches(digests: Sequence[Digest]) -> Iterator[list[str]]:
    for start in range(0, len(digests), _BATCH):
        yield [str(digest) for digest in digests[start : start + _BATCH]]
