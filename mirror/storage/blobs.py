"""Blobs by digest: what is held, what is read, and small content in one step. What is on its way in: uploads.py."""

from __future__ import annotations

from typing import Final

from mirror.oci.descriptor import Descriptor
from mirror.oci.digest import Digest
from mirror.oci.verification import Verified
from mirror.storage import layout
from mirror.storage.bucket import Bucket, ObjectStream
from mirror.storage.uploads import MultipartUpload, SinglePutUpload, Upload, UploadCheckpoint, sha256_or_none

__all__ = ["BlobStore", "Upload", "UploadCheckpoint", "min_part_for", "part_size_for"]

MIN_PART: Final = 16 * 2**20
_SMALLEST_PART: Final = 5 * 2**20
"""What S3 takes at least for any part but the last."""
_PARTS_AT_ONCE: Final = 4
_MAX_PARTS: Final = 9_999
"""One less than S3's 10 000, so that rounding never matters."""
_MIB: Final = 2**20
_PRESIGNED_FOR: Final = 20 * 60


class BlobStore:
    """Content under its digest. All methods may be called from several threads, and repeated.

    *min_part* is in bytes, at least the 5 MiB of S3.
    """

    def __init__(self, bucket: Bucket, *, min_part: int = MIN_PART) -> None:
        self._bucket = bucket
        self._min_part = min_part

    def held(self, digest: Digest) -> int | None:
        """The blob's size in bytes, None if it is not held."""
        return self._bucket.size(layout.blob_key(digest))

    def begin(self, descriptor: Descriptor) -> Upload:
        """Asks nothing of S3 yet: a blob of one part is one PUT at its end, a larger one opens at its first part."""
        part_size = part_size_for(descriptor.size, at_least=self._min_part)
        if descriptor.size <= part_size:
            return SinglePutUpload(self._bucket, descriptor, part_size)
        return MultipartUpload(self._bucket, descriptor, UploadCheckpoint(None, part_size, {}))

    def require_room(self, size: int) -> None:
        """Raise StorageFull if it is known that *size* bytes more do not fit."""
        self._bucket.require_room(size)

    def resume(self, descriptor: Descriptor, checkpoint: UploadCheckpoint) -> Upload:
        """Go on from a checkpoint made anywhere, any time; a put_part or complete raises UploadGone if S3 lost it."""
        if checkpoint.upload_id is None:
            return self.begin(descriptor)
        return MultipartUpload(self._bucket, descriptor, checkpoint)

    def put(self, proof: Verified, content: bytes) -> None:
        """Store small verified content: a manifest or a config. ValueError if *content* is not what was verified."""
        digest = proof.descriptor.digest
        if Digest.of(content, digest.algorithm) != digest:
            raise ValueError(f"this content is not {digest}")
        self._bucket.put(layout.blob_key(digest), content, sha256=sha256_or_none(digest))

    def read(self, digest: Digest, limit: int) -> bytes | None:
        """A small blob whole, None if it is not held. Raises StorageDamaged if it has more than *limit* bytes."""
        return self._bucket.read(layout.blob_key(digest), limit)

    def open(self, digest: Digest, start: int = 0, length: int | None = None) -> ObjectStream | None:
        """The bytes from *start* on, at most *length*; None if the blob is not held (see `Bucket.open`)."""
        return self._bucket.open(layout.blob_key(digest), start, length)

    def presigned_url(self, digest: Digest) -> str:
        """A URL that reads the blob for 20 minutes, whether it is held or not."""
        return self._bucket.presigned_url(layout.blob_key(digest), expires=_PRESIGNED_FOR)


def part_size_for(size: int, *, at_least: int = MIN_PART) -> int:
    """Bytes per part for a blob of *size* bytes: whole MiB above *at_least*, and never more than 9 999 parts."""
    needed = -(-size // _MAX_PARTS)
    return at_least if needed <= at_least else -(-needed // _MIB) * _MIB


def min_part_for(budget: int) -> int:
    """The least bytes per part for buffers of *budget* bytes in all: four parts at once, between 5 and 16 MiB each."""
    return min(MIN_PART, max(_SMALLEST_PART, budget // _PARTS_AT_ONCE // _MIB * _MIB))
