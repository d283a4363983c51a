"""Copy one blob into the bucket: complete it only when digest and size match, and resume it from its checkpoint.

A blob of one part is one GET, hashed, and one PUT. Larger ones are copied in parts (`multipart_copy`). Any worker can
resume a blob that another one began.

The caller holds the blob's lease. If a frozen worker comes back, two workers may believe that they hold it. That does
no harm. Each completes only against its own hash of the bytes that it sent. S3 accepts only parts whose receipts are
listed. Only the lease's holder can write the checkpoint.
"""

from __future__ import annotations

from concurrent.futures import wait
from dataclasses import replace
from typing import Final

import structlog

from mirror.copying.cancellation import Cancellation
from mirror.copying.multipart_copy import BlobProgress, MultipartCopy, TransferContext
from mirror.copying.ports import Progress
from mirror.copying.range_reader import RangesWithdrawn
from mirror.errors import DigestMismatch, SizeInvalid, Unavailable
from mirror.locks.checkpoints import Checkpoint
from mirror.locks.lease import Lease
from mirror.oci.descriptor import Descriptor
from mirror.oci.verification import Hasher, Verified, verify
from mirror.storage.multipart import StoredPart
from mirror.storage.s3 import UploadGone
from mirror.storage.uploads import Upload, UploadCheckpoint

_LOSSES: Final = 2
"""How often the blob is started again after S3 has lost its open upload."""
_LOG = structlog.get_logger(__name__)


class BlobTransfer:
    """The copy of *blob* into the bucket, under *lease*."""

    def __init__(
        self,
        context: TransferContext,
        blob: Descriptor,
        lease: Lease,
        *,
        progress: Progress,
        cancellation: Cancellation,
    ) -> None:
        self._context = context
        self._blob = blob
        self._lease = lease
        self._progress = BlobProgress(progress, blob.digest)
        self._cancellation = cancellation
        self._upload: Upload = context.blobs.begin(blob)
        self._in_one_stream = False

    def read_from(self, url: str) -> None:
        """Let `run` read the blob at a URL of its publisher. What has arrived from elsewhere is kept."""
        self._context = replace(self._context, origin=replace(self._context.origin, url=url))
        self._in_one_stream = False

    def run(self) -> None:
        """Copy the blob.

        Raises DigestMismatch or SizeInvalid for bytes that do not match the descriptor, errors of the source and of the
        bucket, or OperationCanceled. After an error no object and no thread of this transfer is left. Its open upload
        and its checkpoint stay until `discard`, so that another transfer can resume.
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
                _LOG.warning("S3 has lost the open upload: the blob is copied again", blob=str(self._blob.digest))
            except RangesWithdrawn:
                self._in_one_stream = True
                _LOG.warning("the source serves no more ranges: the blob is copied again", blob=str(self._blob.digest))
            except (DigestMismatch, SizeInvalid):
                if resumed is None:
                    raise
                # The first parts may be from another source. This one is judged only by its own bytes.
                _LOG.warning(
                    "the resumed blob does not match its digest: it is copied again", blob=str(self._blob.digest)
                )
            else:
                self._context.checkpoints.finish(self._lease, self._blob.digest)
                return
            self.discard()

    def store_inline(self, content: bytes) -> None:
        """Store *content*, which the descriptor itself carries, instead of calling `run`."""
        proof = verify(content, self._blob)
        self.discard()
        self._upload = self._context.blobs.begin(self._blob)
        self._context.blobs.put(proof, content)
        self._record_source()
        self._context.checkpoints.finish(self._lease, self._blob.digest)

    def discard(self) -> None:
        """Abort the open upload and forget the checkpoint. If S3 is away, the upload purge does this later."""
        try:
            self._upload.abort()
            self._context.checkpoints.forget(self._lease, self._blob.digest)
        except Unavailable as error:
            _LOG.warning("upload left open", blob=str(self._blob.digest), reason=error.message)

    def _run(self, resumed: Checkpoint | None) -> None:
        self._progress.restart()
        done = resumed.frontier * resumed.part_size if resumed else 0
        self._context.blobs.require_room(self._blob.size - done)
        if self._blob.size <= self._upload.part_size:
            self._copy_whole()
            return
        hasher = self._resume(resumed) if resumed else Hasher(self._blob)
        self._copy_parts(hasher)
        self._progress.verifying(self._blob.size)
        self._complete(hasher.finish())

    def _complete(self, proof: Verified) -> None:
        """Make the blob visible and, in parallel, record its source. The record is true: the blob is verified."""
        noted = self._context.own.submit(self._record_source)
        try:
            self._upload.complete(proof)
        finally:
            wait([noted])
        noted.result()

    def _record_source(self) -> None:
        """Record the repository that the blob was read from. None has served what came from a URL."""
        origin = self._context.origin
        if origin.url is None:
            source = origin.reference
            self._context.provenance.record_blob_source(self._blob.digest, source.registry, source.repository)

    def _checkpoint(self) -> Checkpoint | None:
        """Return the checkpoint of an earlier transfer. An unusable one is discarded with its open upload."""
        self._upload = self._context.blobs.begin(self._blob)
        if self._blob.size <= self._upload.part_size:
            return None
        found = self._context.checkpoints.load(self._blob.digest)
        if found is not None and not self._is_usable(found):
            self._upload = self._context.blobs.resume(self._blob, UploadCheckpoint(found.upload_id, found.part_size))
            self.discard()
            self._upload = self._context.blobs.begin(self._blob)
            return None
        return found

    def _is_usable(self, checkpoint: Checkpoint) -> bool:
        try:
            self._hasher_at(checkpoint)
        except ValueError:
            return False
        return checkpoint.part_size <= self._context.memory.limit

    def _hasher_at(self, checkpoint: Checkpoint) -> Hasher:
        """Return the hash at the checkpoint. Raises ValueError if it cannot be resumed."""
        if checkpoint.frontier == 0:
            return Hasher(self._blob)
        return Hasher.resumed(self._blob, checkpoint.frontier * checkpoint.part_size, checkpoint.midstate)

    def _resume(self, checkpoint: Checkpoint) -> Hasher:
        hasher = self._hasher_at(checkpoint)
        parts = {number: StoredPart(*receipt) for number, receipt in checkpoint.parts.items()}
        self._upload = self._context.blobs.resume(
            self._blob, UploadCheckpoint(checkpoint.upload_id, checkpoint.part_size, parts)
        )
        _LOG.info("blob resumed from its checkpoint", blob=str(self._blob.digest), at=hasher.seen)
        self._progress.arrived(hasher.seen)
        return hasher

    def _copy_whole(self) -> None:
        size = self._blob.size
        self._require_room(size)
        with (
            self._context.memory.buffer(size, self._cancellation) as buffer,
            self._context.reader(self._blob, self._cancellation, start=0, end=size) as reader,
        ):
            reader.fill(memoryview(buffer), self._progress.arrived)
            reader.require_end()
            reader.close()
            hasher = Hasher(self._blob)
            hasher.update(buffer)
            proof = hasher.finish()
            self._progress.verifying(size)
            self._upload.put_part(1, buffer)
            self._complete(proof)

    def _copy_parts(self, hasher: Hasher) -> None:
        self._require_room(self._upload.part_size)
        with self._cancellation.child() as own:
            MultipartCopy(
                self._context,
                self._lease,
                self._upload,
                hasher,
                self._progress,
                own,
                in_one_stream=self._in_one_stream,
            ).run()

    def _require_room(self, size: int) -> None:
        if size > self._context.memory.limit:
            reason = f"more than parts of {self._context.memory.limit} bytes can carry (MIRROR_MEMORY_BUDGET)"
            raise SizeInvalid(str(self._blob.digest), self._blob.size, reason)
