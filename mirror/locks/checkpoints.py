"""Checkpoints: how far a blob's transfer has come, so that another worker can go on from there.

A checkpoint is written only by who holds the blob's lease: each write proves it with the lease's token in the same
script, so a worker that was frozen past its lease cannot set a checkpoint back. It is a few hundred bytes and a line
per part, and is forgotten a day after it was last written.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from mirror.locks.lease import Lease
from mirror.oci.digest import Digest
from mirror.redis import keys
from mirror.redis.client import Redis

KEPT_SECONDS: Final = 24 * 3600
NEWS_SECONDS: Final = 60
"""How long it is told that a blob has come."""

_WRITE = """
-- KEYS: the checkpoint, the blob's lease. ARGV: the lease's token, seconds to keep, 1 to begin anew, fields and values.
if redis.call('GET', KEYS[2]) ~= ARGV[1] then return 0 end
if ARGV[3] == '1' then redis.call('DEL', KEYS[1])
elseif redis.call('EXISTS', KEYS[1]) == 0 then return 1 end  -- Redis has lost it: what is left of it is of no use
redis.call('HSET', KEYS[1], unpack(ARGV, 4))
redis.call('EXPIRE', KEYS[1], ARGV[2])
return 1
"""
_FORGET = """
if redis.call('GET', KEYS[2]) ~= ARGV[1] then return 0 end
redis.call('DEL', KEYS[1])
return 1
"""
_FINISH = """
if redis.call('GET', KEYS[2]) == ARGV[1] then redis.call('DEL', KEYS[1]) end
redis.call('SET', KEYS[3], 1, 'EX', ARGV[2])
return 1
"""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The first ``frontier`` parts of ``part_size`` bytes each are stored and hashed.

    ``midstate`` is the hash behind them (`oci.sha256`); ``parts`` maps each one's number to its receipt, S3's ETag and
    the CRC-32 that was sent.
    """

    upload_id: str
    part_size: int
    frontier: int = 0
    midstate: bytes = b""
    parts: Mapping[int, tuple[str, str]] = field(default_factory=dict)


class Checkpoints:
    """The checkpoints of all blobs on their way. Safe to share between threads."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._write = redis.script(_WRITE)
        self._forget = redis.script(_FORGET)
        self._finish = redis.script(_FINISH)

    def load(self, digest: Digest) -> Checkpoint | None:
        found: dict[str, str] = self._redis.call("HGETALL", keys.blob_checkpoint(digest))
        if not found:
            return None
        frontier = int(found["frontier"])
        receipts = {number: json.loads(found[f"part:{number}"]) for number in range(1, frontier + 1)}
        return Checkpoint(
            upload_id=found["upload_id"],
            part_size=int(found["part_size"]),
            frontier=frontier,
            midstate=bytes.fromhex(found["midstate"]),
            parts={number: (etag, crc32) for number, (etag, crc32) in receipts.items()},
        )

    def begin(self, lease: Lease, digest: Digest, upload_id: str, part_size: int, *, holder: str) -> bool:
        """An upload was opened for *holder*, and nothing stored yet; False if the lease is no longer ours."""
        values = [
            "upload_id",
            upload_id,
            "part_size",
            str(part_size),
            "frontier",
            "0",
            "midstate",
            "",
            "holder",
            holder,
        ]
        return self._written(lease, digest, values, anew=True)

    def adopt(self, lease: Lease, digest: Digest, *, holder: str) -> bool:
        """*holder* goes on with it; False if the lease is no longer ours."""
        return self._written(lease, digest, ["holder", holder], anew=False)

    def advance(
        self, lease: Lease, digest: Digest, frontier: int, midstate: bytes, stored: Mapping[int, tuple[str, str]]
    ) -> bool:
        """The frontier has moved on over the parts *stored*; False if the lease is no longer ours."""
        values = ["frontier", str(frontier), "midstate", midstate.hex()]
        for number, receipt in stored.items():
            values += [f"part:{number}", json.dumps(receipt)]
        return self._written(lease, digest, values, anew=False)

    def forget(self, lease: Lease, digest: Digest) -> None:
        """The upload was aborted; nothing happens if the lease is no longer ours."""
        self._forget([keys.blob_checkpoint(digest), lease.key], [lease.token])

    def finish(self, lease: Lease, digest: Digest) -> None:
        """The blob is there: tell those who looked for it before, for `NEWS_SECONDS`."""
        names = [keys.blob_checkpoint(digest), lease.key, keys.blob_brought(digest)]
        self._finish(names, [lease.token, NEWS_SECONDS])

    def has_come(self, digest: Digest) -> bool:
        """Whether somebody brought the blob in the last `NEWS_SECONDS`. Should Redis forget it, it is fetched again."""
        return bool(self._redis.call("EXISTS", keys.blob_brought(digest)))

    def open_upload(self, digest: Digest) -> tuple[str, str] | None:
        """The id of the upload that the blob's checkpoint counts on, and for whom it was last gone on with."""
        upload_id, holder = self._redis.call("HMGET", keys.blob_checkpoint(digest), "upload_id", "holder")
        return (upload_id, holder or "") if upload_id else None

    def _written(self, lease: Lease, digest: Digest, values: list[str], *, anew: bool) -> bool:
        written = self._write(
            [keys.blob_checkpoint(digest), lease.key], [lease.token, KEPT_SECONDS, int(anew), *values]
        )
        return bool(written)
