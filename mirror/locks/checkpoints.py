"""Checkpoints: the progress of a blob's transfer.

With it another worker can continue.

Only the holder of the blob's lease writes a checkpoint. Each write proves that with the lease's token, in the same
script. So a worker that was frozen past its lease cannot reset a checkpoint. A checkpoint is a few hundred bytes plus a
line per part. It expires a day after its last write.
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
from mirror.redis.scripts import load_script

KEPT_SECONDS: Final = 24 * 3600
NEWS_SECONDS: Final = 60
"""Seconds for which a finished blob stays announced to waiting workers."""

_WRITE: Final = load_script("mirror.locks", "write_checkpoint.lua")
_FORGET: Final = load_script("mirror.locks", "forget_checkpoint.lua")
_FINISH: Final = load_script("mirror.locks", "finish_checkpoint.lua")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The first ``frontier`` parts of ``part_size`` bytes each are stored and hashed.

    ``midstate`` is the state of the hash after them (`oci.sha256`). ``parts`` maps the number of each part to its
    receipt: S3's ETag and the CRC-32 that was sent.
    """

    upload_id: str
    part_size: int
    frontier: int = 0
    midstate: bytes = b""
    parts: Mapping[int, tuple[str, str]] = field(default_factory=dict)


class Checkpoints:
    """The checkpoints of all unfinished transfers.

    Every method raises RedisUnavailable. Safe to share between threads.

    The methods that write return False, and write nothing, if the lease is no longer ours.
    """

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._write = redis.script(_WRITE)
        self._forget = redis.script(_FORGET)
        self._finish = redis.script(_FINISH)

    def load(self, digest: Digest) -> Checkpoint | None:
        """Return the blob's checkpoint, None if there is none."""
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
        """Write the checkpoint of an upload that was just opened for *holder*."""
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
        return self._write_fields(lease, digest, values, new=True)

    def take_over(self, lease: Lease, digest: Digest, *, holder: str) -> bool:
        """Note that *holder* continues the upload."""
        return self._write_fields(lease, digest, ["holder", holder], new=False)

    def advance(
        self, lease: Lease, digest: Digest, frontier: int, midstate: bytes, stored: Mapping[int, tuple[str, str]]
    ) -> bool:
        """Move the frontier over the parts *stored*.

        These are the receipts by part number.
        """
        values = ["frontier", str(frontier), "midstate", midstate.hex()]
        for number, receipt in stored.items():
            values += [f"part:{number}", json.dumps(receipt)]
        return self._write_fields(lease, digest, values, new=False)

    def forget(self, lease: Lease, digest: Digest) -> None:
        """Delete the checkpoint of an upload that was aborted.

        Do nothing if the lease is no longer ours.
        """
        self._forget([keys.blob_checkpoint(digest), lease.key], [lease.token])

    def finish(self, lease: Lease, digest: Digest) -> None:
        """Announce for `NEWS_SECONDS` that the blob is stored.

        Workers that found it missing before look for that.
        """
        names = [keys.blob_checkpoint(digest), lease.key, keys.blob_brought(digest)]
        self._finish(names, [lease.token, NEWS_SECONDS])

    def is_announced(self, digest: Digest) -> bool:
        """Return whether the blob was stored in the last `NEWS_SECONDS`."""
        return bool(self._redis.call("EXISTS", keys.blob_brought(digest)))

    def open_upload(self, digest: Digest) -> tuple[str, str] | None:
        """Return the upload id of the blob's checkpoint, and its last holder."""
        upload_id, holder = self._redis.call("HMGET", keys.blob_checkpoint(digest), "upload_id", "holder")
        return (upload_id, holder or "") if upload_id else None

    def _write_fields(self, lease: Lease, digest: Digest, values: list[str], *, new: bool) -> bool:
        names = [keys.blob_checkpoint(digest), lease.key]
        return bool(self._write(names, [lease.token, KEPT_SECONDS, int(new), *values]))
