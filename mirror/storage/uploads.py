"""The upload of one blob. Nothing of it can be read before complete(), and complete() takes proof that it is verified.

What S3 stored is what was sent. A PUT carries the digest itself for S3 to check (sha256), or an MD5. Each part carries
a checksum that S3 checks or returns (`MultipartUploads.upload_part`). A part that was changed on its way raises
StorageUnavailable and is not sent again. rclone has written it into its stream by then, and fails the upload. What
works everywhere is to abort, and begin the blob again.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol

from mirror.oci.descriptor import Descriptor
from mirror.oci.verification import Verified
from mirror.storage import layout
from mirror.storage.bucket import Bucket
from mirror.storage.multipart import Body, StoredPart

_MAX_PART_NUMBER: Final = 10_000


@dataclass(frozen=True, slots=True)
class UploadCheckpoint:
    """All that S3 needs to continue an upload in another process: its id, and what it returned for every stored part.

    ``upload_id`` is None while nothing is stored, and then resuming is beginning. ``part_size`` is in bytes.
    """

    upload_id: str | None
    part_size: int
    parts: Mapping[int, StoredPart] = field(default_factory=dict)


class Upload(Protocol):
    """One blob that is being uploaded. It is invisible until complete() with proof that its bytes were verified.

    Part *n*, from 1 on, holds ``part_size`` bytes from ``(n - 1) * part_size`` on. The last part ends with the blob.
    """

    @property
    def part_size(self) -> int:
        """Bytes in every part but the last."""
        ...

    def open(self) -> UploadCheckpoint:
        """Open the upload at S3 now, rather than at the first part. A blob of one part needs none."""
        ...

    def put_part(self, number: int, body: Body) -> StoredPart | None:
        """Store a part, in any order and from any thread. May be repeated.

        A blob of one part is kept without a copy, so leave *body* unchanged until complete() or abort(). Of a larger
        blob nothing is kept. A bytearray, or a memoryview of a whole one, is sent without a copy.

        Returns what a checkpoint needs of the part, None for a blob of one part. Raises ValueError if there is no such
        part, if it has another size, or if the upload was aborted or completed.
        """
        ...

    def checkpoint(self) -> UploadCheckpoint:
        """Return what is stored at this moment, for `BlobStore.resume` in another process."""
        ...

    def complete(self, proof: Verified) -> None:
        """Make the blob visible, at once and whole. May be repeated, here or from the same checkpoint.

        Raises ValueError, and changes nothing, if the proof is for other bytes or a part is missing.
        """
        ...

    def abort(self) -> None:
        """Delete the upload and its parts, also those that other threads are still sending. May be repeated.

        After complete() it does nothing: a verified blob stays.
        """
        ...


class SinglePutUpload:
    """A blob of at most one part. It is one PUT, when it is verified. Until then no request is sent."""

    def __init__(self, bucket: Bucket, descriptor: Descriptor, part_size: int) -> None:
        self.part_size = part_size
        self._bucket = bucket
        self._descriptor = descriptor
        self._body: Body | None = b"" if descriptor.size == 0 else None
        self._ended = False

    def open(self) -> UploadCheckpoint:
        return self.checkpoint()

    def put_part(self, number: int, body: Body) -> None:
        _require_open(self._descriptor, ended=self._ended)
        _require_size(self._descriptor, self.part_size, number, body)
        self._body = body

    def checkpoint(self) -> UploadCheckpoint:
        return UploadCheckpoint(None, self.part_size)

    def complete(self, proof: Verified) -> None:
        _require_proof(self._descriptor, proof)
        if self._body is None:
            raise ValueError(f"part 1 of {self._descriptor} is missing")
        digest = self._descriptor.digest
        self._bucket.put(layout.blob_key(digest), self._body, digest=digest)
        self._ended = True

    def abort(self) -> None:
        self._ended = True
        self._body = None


class MultipartUpload:
    """A blob of two parts or more. The upload is opened at S3 with the first part."""

    def __init__(self, bucket: Bucket, descriptor: Descriptor, checkpoint: UploadCheckpoint) -> None:
        self.part_size = checkpoint.part_size
        self._bucket = bucket
        self._descriptor = descriptor
        self._key = layout.blob_key(descriptor.digest)
        self._last_part = -(-descriptor.size // self.part_size)
        if not 1 <= self._last_part <= _MAX_PART_NUMBER:
            raise ValueError(f"{descriptor} cannot be sent in parts of {self.part_size} bytes")
        self._lock = threading.Lock()  # guards what follows. The only request under it is the one that opens the upload
        self._upload_id = checkpoint.upload_id
        self._stored = dict(checkpoint.parts)
        self._aborted = False
        self._completed = False

    def open(self) -> UploadCheckpoint:
        self._opened()
        return self.checkpoint()

    def put_part(self, number: int, body: Body) -> StoredPart:
        _require_size(self._descriptor, self.part_size, number, body)
        upload_id = self._opened()
        try:
            stored = self._bucket.uploads.upload_part(self._key, upload_id, number, body)
        finally:
            if self._aborted:
                # S3 may keep a part that was under way during the abort, until the upload is aborted again.
                self._bucket.uploads.abort(self._key, upload_id)
        with self._lock:
            self._stored[number] = stored
        return stored

    def checkpoint(self) -> UploadCheckpoint:
        with self._lock:
            return UploadCheckpoint(self._upload_id, self.part_size, dict(self._stored))

    def complete(self, proof: Verified) -> None:
        _require_proof(self._descriptor, proof)
        with self._lock:
            upload_id, stored, aborted = self._upload_id, dict(self._stored), self._aborted
        _require_open(self._descriptor, ended=aborted)
        missing = set(range(1, self._last_part + 1)) - set(stored)
        if upload_id is None or missing:
            raise ValueError(f"part {min(missing, default=1)} of {self._descriptor} is missing")
        self._bucket.uploads.complete(self._key, upload_id, stored, size=self._descriptor.size)
        self._completed = True

    def abort(self) -> None:
        with self._lock:
            if self._completed:
                return
            self._aborted = True
            upload_id = self._upload_id
        if upload_id is not None:
            self._bucket.uploads.abort(self._key, upload_id)

    def _opened(self) -> str:
        """Return the upload's id. The first caller opens the upload while the others wait."""
        with self._lock:
            _require_open(self._descriptor, ended=self._aborted or self._completed)
            if self._upload_id is None:
                self._upload_id = self._bucket.uploads.create(self._key)
            return self._upload_id


def _require_proof(descriptor: Descriptor, proof: Verified) -> None:
    proven = proof.descriptor
    if (proven.digest, proven.size) != (descriptor.digest, descriptor.size):
        raise ValueError(f"the proof is for {proven}, not for {descriptor}")


def _require_open(descriptor: Descriptor, *, ended: bool) -> None:
    if ended:
        raise ValueError(f"the upload of {descriptor} has ended")


def _require_size(descriptor: Descriptor, part_size: int, number: int, body: Body) -> None:
    """Raise ValueError unless the part has the size that its place in the blob gives it. So sizes always add up."""
    given = memoryview(body).nbytes
    due = min(part_size, descriptor.size - (number - 1) * part_size)
    if number < 1 or due < 0 or (due == 0 and descriptor.size > 0) or given != due:
        raise ValueError(f"part {number} of {descriptor} has {given} bytes instead of {max(due, 0)}")
