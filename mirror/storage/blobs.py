"""Blobs by digest: look up, read, and store, small ones in one step. Manifests, before their image is published.

See uploads.py for the upload of a large blob.
"""

from __future__ import annotations

from typing import Final

from mirror.errors import StorageDamaged
from mirror.oci.descriptor import Descriptor
from mirror.oci.digest import Digest
from mirror.oci.manifest import MAX_MANIFEST_SIZE
from mirror.oci.reference import Reference
from mirror.oci.verification import Verified, verify
from mirror.storage import layout
from mirror.storage.bucket import Bucket
from mirror.storage.object_stream import ObjectStream
from mirror.storage.provenance import ProvenanceStore
from mirror.storage.uploads import MultipartUpload, SinglePutUpload, Upload, UploadCheckpoint

MIN_PART: Final = 16 * 2**20
_SMALLEST_PART: Final = 5 * 2**20
"""S3's least size of every part except the last."""
_PARTS_AT_ONCE: Final = 4
_MAX_PARTS: Final = 9_999
"""One less than S3's 10 000, so that rounding never matters."""
_MIB: Final = 2**20


class BlobStore:
    """Content under its digest. All methods may be called from several threads, and repeated.

    *min_part* is the least size of a part in bytes. S3 takes no less than 5 MiB.
    """

    def __init__(self, bucket: Bucket, *, min_part: int = MIN_PART) -> None:
        self._bucket = bucket
        self._min_part = min_part

    def held(self, digest: Digest) -> int | None:
        """Return the blob's size in bytes, None if the bucket does not hold it."""
        return self._bucket.size(layout.blob_key(digest))

    def begin(self, descriptor: Descriptor) -> Upload:
        """Begin the upload of a blob. Sends no request: an upload of several parts is opened at its first part."""
        part_size = part_size_for(descriptor.size, at_least=self._min_part)
        if descriptor.size <= part_size:
            return SinglePutUpload(self._bucket, descriptor, part_size)
        return MultipartUpload(self._bucket, descriptor, UploadCheckpoint(None, part_size, {}))

    def parts(self, size: int) -> int:
        """Return in how many parts a blob of *size* bytes is read and stored."""
        return max(1, -(-size // part_size_for(size, at_least=self._min_part)))

    def resume(self, descriptor: Descriptor, checkpoint: UploadCheckpoint) -> Upload:
        """Continue from a checkpoint of any process. Its put_part or complete raises UploadGone if S3 lost the upload.

        Sends no request.
        """
        if checkpoint.upload_id is None:
            return self.begin(descriptor)
        return MultipartUpload(self._bucket, descriptor, checkpoint)

    def require_room(self, size: int) -> None:
        """Raise StorageFull if it is known that *size* more bytes do not fit."""
        self._bucket.disk.require_room(size)

    def put(self, proof: Verified, content: bytes) -> None:
        """Store small verified content: a manifest or a config. Raises ValueError if *content* is not the proven."""
        digest = proof.descriptor.digest
        if Digest.of(content, digest.algorithm) != digest:
            raise ValueError(f"this content is not {digest}")
        self._bucket.put(layout.blob_key(digest), content, digest=digest)

    def read(self, digest: Digest, limit: int) -> bytes | None:
        """Return a small blob whole, None if it is not held. Raises StorageDamaged for more than *limit* bytes."""
        return self._bucket.read(layout.blob_key(digest), limit)

    def open(self, digest: Digest, start: int = 0, length: int | None = None) -> ObjectStream | None:
        """Return the bytes from *start* on, at most *length* of them. None if the blob is not held."""
        return self._bucket.open(layout.blob_key(digest), start, length)


class ManifestStore:
    """Manifests before their image is published, and which sources served them. Safe to share between threads.

    What is stored here cannot be read from the mirror until a repository links it.
    """

    def __init__(self, blobs: BlobStore, provenance: ProvenanceStore) -> None:
        self._blobs = blobs
        self._provenance = provenance

    def read(self, digest: Digest) -> bytes | None:
        """Return the bytes of a manifest. None if they are not held, or do not match their digest."""
        try:
            body = self._blobs.read(digest, MAX_MANIFEST_SIZE)
        except StorageDamaged:
            return None
        return body if body is not None and Digest.of(body, digest.algorithm) == digest else None

    def put(self, descriptor: Descriptor, body: bytes) -> None:
        """Store a manifest. Raises DigestMismatch or SizeInvalid if *body* is another."""
        self._blobs.put(verify(body, descriptor), body)

    def note_served(self, reference: Reference, digest: Digest) -> None:
        """Record that the registry and repository of *reference* served the bytes of *digest*."""
        self._provenance.record_blob_source(digest, reference.registry, reference.repository)

    def was_served(self, reference: Reference, digest: Digest) -> bool:
        """Whether that was recorded before."""
        return self._provenance.has_blob_source(digest, reference.registry, reference.repository)


def part_size_for(size: int, *, at_least: int = MIN_PART) -> int:
    """Return the bytes per part of a blob of *size* bytes: whole MiB above *at_least*, for at most 9 999 parts."""
    needed = -(-size // _MAX_PARTS)
    return at_least if needed <= at_least else -(-needed // _MIB) * _MIB


def min_part_for(budget: int) -> int:
    """Return the least bytes per part for *budget* bytes of buffers: four parts at once, of 5 to 16 MiB each."""
    return min(MIN_PART, max(_SMALLEST_PART, budget // _PARTS_AT_ONCE // _MIB * _MIB))
