"""One blob on its way into the bucket: completed only when digest and size matched, and resumed from its checkpoint by
whichever worker comes next.

A blob of one part is one GET, hashed, and one PUT; larger ones travel in parts (`parts_copy`).

The caller holds the blob's lease. Two workers that both believe to hold it, since one was frozen, do no harm: each
completes only against its own hash of the very bytes it sent, S3 takes only the parts whose receipts are listed, and
the checkpoint is written by the lease's holder alone.
"""

from __future__ import annotations

import threading
from concurrent.futures import wait
from functools import partial
from typing import Final

import structlog

from mirror.copying.cancellation import Cancellation
from mirror.copying.multipart_copy import MultipartCopy
from mirror.copying.progress import Progress
from mirror.copying.range_reader import RangesWithdrawn
from mirror.copying.transfer_context import TransferContext
from mirror.errors import DigestMismatch, SizeInvalid, Unavailable
from mirror.locks.checkpoints import Checkpoint
from mirror.locks.lease import Lease
from mirror.oci.descriptor import Descriptor
from mirror.oci.verification import Hasher, Verified, verify
from mirror.storage.blobs import Upload, UploadCheckpoint
from mirror.storage.bucket import StoredPart, UploadGone

_LOSSES: Final = 2
"""How often S3 may lose the open upload before the blob is not begun again."""
_LOG = structlog.get_logger(__name__)


class BlobTransfer:
    """The way of *blob* into the bucket, under *lease*."""

    def __init__(
        self, means: TransferContext, blob: Descriptor, lease: Lease, *, progress: Progress, cancellation: Cancellation
    ) -> None:
        self._means = means
        self._blob = blob
        self._lease = lease
        self._progress = progress
        self._cancellation = cancellation
        self._upload: Upload = means.blobs.begin(blob)
        self._in_one_stream = False
        self._lock = threading.Lock()
        self._copied = 0

    def run(self) -> None:
        """Copy the blob.

        Raises DigestMismatch or SizeInvalid for bytes that are not the described ones, what the source or the store
        raises, or OperationCanceled. After an error no object and no thread of this transfer is left. Its open upload
        is, with a checkpoint to go on from, until `discard`.
        """
        losses = 0
        while True:
            resumed = self._checkpoint()
            try:
                self._run(resumed)
            except UploadGone:
                losses += 1
                if losses > _LOSSES:
                    raise
                _LOG.warning("S3 has lost the open upload; the blob begins again", blob=str(self._blob.digest))
            except RangesWithdrawn:
                self._in_one_stream = True
                _LOG.warning("the source gives no more ranges; the blob begins again", blob=str(self._blob.digest))
            except (DigestMismatch, SizeInvalid):
                if resumed is None:
                    raise
                # The beginning may have come from another source: this one is judged by what it gives itself.
                _LOG.warning("the resumed blob does not match; it begins again", blob=str(self._blob.digest))
            else:
                self._means.checkpoints.finish(self._lease, self._blob.digest)
                return
            self.discard()

    def take(self, content: bytes) -> None:
        """Store the blob from the descriptor that carries it, which the source has served, in the place of `run`."""
        proof = verify(content, self._blob)
        self.discard()
        self._upload = self._means.blobs.begin(self._blob)
        self._means.blobs.put(proof, content)
        source = self._means.reference
        self._means.provenance.record_blob_source(self._blob.digest, source.registry, source.repository)
        self._means.checkpoints.finish(self._lease, self._blob.digest)

    def discard(self) -> None:
        """Leave nothing open; where S3 itself is away the sweep of open uploads has to do it later."""
        try:
            self._upload.abort()
            self._means.checkpoints.forget(self._lease, self._blob.digest)
        except Unavailable as error:
            _LOG.warning("upload left open", blob=str(self._blob.digest), reason=error.message)

    def _run(self, resumed: Checkpoint | None) -> None:
        self._copied = 0
        done = resumed.frontier * resumed.part_size if resumed else 0
        self._means.blobs.require_room(self._blob.size - done)
        if self._blob.size <= self._upload.part_size:
            self._copy_whole()
            return
        hasher = self._resume(resumed) if resumed else Hasher(self._blob)
        self._copy_parts(hasher, done=resumed.frontier if resumed else 0)
        self._progress.advanced(self._blob.digest, "verifying", self._blob.size)
        self._complete(hasher.finish())

    def _complete(self, proof: Verified) -> None:
        """Make the blob visible and note where it was verified from, side by side: the latter is true by now."""
        source = self._means.reference
        noted = self._means.own.submit(
            self._means.provenance.record_blob_source, self._blob.digest, source.registry, source.repository
        )
        try:
            self._upload.complete(proof)
        finally:
            wait([noted])
        noted.result()

    def _checkpoint(self) -> Checkpoint | None:
        """What an earlier transfer of the blob left to go on from; what cannot be used is not left open either."""
        self._upload = self._means.blobs.begin(self._blob)
        if self._blob.size <= self._upload.part_size:
            return None
        found = self._means.checkpoints.load(self._blob.digest)
        if found is not None and not self._is_usable(found):
            self._upload = self._means.blobs.resume(self._blob, UploadCheckpoint(found.upload_id, found.part_size))
            self.discard()
            self._upload = self._means.blobs.begin(self._blob)
            return None
        return found

    def _is_usable(self, checkpoint: Checkpoint) -> bool:
        try:
            self._hasher_at(checkpoint)
        except ValueError:
            return False
        return checkpoint.part_size <= self._means.memory.limit

    def _hasher_at(self, checkpoint: Checkpoint) -> Hasher:
        """Raises ValueError where the hash cannot be resumed."""
        if checkpoint.frontier == 0:
            return Hasher(self._blob)
        return Hasher.resumed(self._blob, checkpoint.frontier * checkpoint.part_size, checkpoint.midstate)

    def _resume(self, checkpoint: Checkpoint) -> Hasher:
        hasher = self._hasher_at(checkpoint)
        parts = {number: StoredPart(*receipt) for number, receipt in checkpoint.parts.items()}
        self._upload = self._means.blobs.resume(
            self._blob, UploadCheckpoint(checkpoint.upload_id, checkpoint.part_size, parts)
        )
        _LOG.info("blob goes on from its checkpoint", blob=str(self._blob.digest), at=hasher.seen)
        self._arrived(hasher.seen)
        return hasher

    def _copy_whole(self) -> None:
        size = self._blob.size
        self._require_room(size)
        with (
            self._means.memory.buffer(size, self._cancellation) as buffer,
            self._means.reader(self._blob, self._cancellation, start=0, end=size) as reader,
        ):
            reader.fill(memoryview(buffer), self._arrived)
            reader.require_end()
            reader.close()
            hasher = Hasher(self._blob)
            hasher.update(buffer)
            proof = hasher.finish()
            self._progress.advanced(self._blob.digest, "verifying", size)
            self._upload.put_part(1, buffer)
            self._complete(proof)

    def _copy_parts(self, hasher: Hasher, *, done: int) -> None:
        self._require_room(self._upload.part_size)
        with self._cancellation.child() as together:
            MultipartCopy(
                self._means,
                self._blob,
                self._lease,
                self._upload,
                hasher,
                together,
                done=done,
                in_one_stream=self._in_one_stream,
                arrived=self._arrived,
                checkpointed=partial(self._progress.checkpointed, self._blob.digest),
            ).run()

    def _require_room(self, size: int) -> None:
        if size > self._means.memory.limit:
            reason = f"more than parts of {self._means.memory.limit} bytes can carry (MIRROR_MEMORY_BUDGET)"
            raise SizeInvalid(str(self._blob.digest), self._blob.size, reason)

    def _arrived(self, count: int) -> None:
        with self._lock:
            self._copied += count
            self._progress.advanced(self._blob.digest, "copying", self._copied)
