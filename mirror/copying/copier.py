"""Copying the blobs of one image: pin, ask the bucket, plan, transfer several at a time."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import dataclass
from time import monotonic
from typing import Final

import structlog
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from mirror.copying.blob_queue import BlobQueue
from mirror.copying.blob_transfer import BlobTransfer
from mirror.copying.cancellation import Cancellation, OperationCanceled
from mirror.copying.largest_first import LargestFirst
from mirror.copying.memory import ManifestMemory, MemoryBudget
from mirror.copying.multipart_copy import LEASE_LOST
from mirror.copying.plan import plan_copy
from mirror.copying.progress import PlannedBlob, Progress
from mirror.copying.source import Source
from mirror.copying.transfer_context import TransferContext
from mirror.errors import (
    BlobBeingDeleted,
    ContentError,
    InternalError,
    MirrorError,
    RedisUnavailable,
    SourceError,
    StorageFull,
)
from mirror.locks.checkpoints import NEWS_SECONDS, Checkpoints
from mirror.locks.lease import Leases
from mirror.locks.lease_renewer import LeaseRenewer
from mirror.locks.pins import Pins
from mirror.oci.descriptor import Descriptor
from mirror.oci.digest import Digest
from mirror.oci.image import Image, LeftOut
from mirror.oci.reference import Reference
from mirror.redis import keys
from mirror.redis.client import Redis
from mirror.storage.blobs import BlobStore, min_part_for
from mirror.storage.bucket import Bucket
from mirror.storage.provenance import ProvenanceStore

BLOB_LEASE_SECONDS: Final = 15.0
"""How long a dead worker's blob waits for the next one."""
_BLOBS: Final = 16
_PARTS: Final = 12
_HEADS: Final = 16
_ASKED_AT_ONCE: Final = 1_000
_LOG = structlog.get_logger(__name__)
_CONTRADICTED: Final = "an entry of the index that gives this digest another size than it has"
_UNKNOWN_USE: Final = "an entry of the index with the unknown media type"
FOREIGN: Final = "non-distributable layer: it stays with its publisher"


@dataclass(frozen=True, slots=True)
class Copied:
    """What became of an image's blobs: ``held`` were not read from the source, ``left_out`` cannot be had there."""

    held: tuple[Digest, ...]
    left_out: tuple[LeftOut, ...]


class Copier:
    """Brings an image's blobs into the bucket; manifests and links are the catalog's.

    A blob is fetched once in the fleet: whoever holds its lease copies it, and others wait. That is for economy alone.
    Should two bring it at once, each completes only what it has verified, so the object is the same whichever comes
    last, and neither ever deletes one.
    """

    def __init__(self, source: Source, bucket: Bucket, redis: Redis, memory: MemoryBudget) -> None:
        self._source = source
        self._blobs = BlobStore(bucket, min_part=min_part_for(memory.limit))
        self._provenance = ProvenanceStore(bucket)
        self._pins = Pins(redis)
        self._leases = Leases(redis)
        self._checkpoints = Checkpoints(redis)
        self._memory = memory

    def manifest_memory(self, reference: Reference, cancellation: Cancellation) -> ManifestMemory:
        """What the manifests of an image hold of this copier's budget, as a context for all of its task."""
        return ManifestMemory(self._memory, str(reference), cancellation)

    def copy(
        self, reference: Reference, image: Image, *, holder: str, progress: Progress, cancellation: Cancellation
    ) -> Copied:
        """Make the bucket hold every distributable blob of *image*, pinned for *holder* before it is looked for.

        Entries of an index that are of no known use are left out where the source does not serve them.
        Raises the first error of any blob, when all transfers have stopped. Behind an error that the task will wait
        out, and behind an cancellation that is to be resumed, what was begun can be gone on with; otherwise nothing
        half-written is left.
        """
        everything = list(image.sizes)
        self._pin(holder, everything, cancellation)
        try:
            return self._copy_pinned(reference, image, holder, progress, cancellation)
        except MirrorError as error:
            if not isinstance(error, RedisUnavailable):
                self._unpin(holder, everything)
            raise

    def _unpin(self, holder: str, digests: list[Digest]) -> None:
        """The copy has failed, or will be begun anew with pins of its own."""
        try:
            self._pins.unpin(holder, digests)
        except RedisUnavailable:
            _LOG.info("the pins of a failed copy are left to expire", pins=len(digests))

    def _copy_pinned(
        self, reference: Reference, image: Image, holder: str, progress: Progress, cancellation: Cancellation
    ) -> Copied:
        looked_at = monotonic()
        plan = plan_copy(image, self._held(image.blobs))
        contradicted = tuple(LeftOut(blob, _CONTRADICTED) for blob in plan.contradicted)
        progress.planned(
            [
                *(PlannedBlob(blob, "waiting") for blob in plan.to_copy),
                *(PlannedBlob(blob, "exists") for blob in plan.held),
                *(PlannedBlob(blob, "skipped", FOREIGN) for blob in plan.foreign),
                *(PlannedBlob(entry.descriptor, "skipped", entry.reason) for entry in (*image.left_out, *contradicted)),
            ]
        )
        held = tuple(blob.digest for blob in plan.held)
        if not plan.to_copy:
            return Copied(held, contradicted)
        self._require_room(plan.to_copy)
        optional = frozenset(blob.digest for blob in image.optional_blobs)
        later = self._transfer_all(reference, plan.to_copy, optional, holder, progress, cancellation, looked_at)
        return Copied(held + later.held, contradicted + later.left_out)

    def _pin(self, holder: str, digests: list[Digest], cancellation: Cancellation) -> None:
        """A deletion that is under way takes moments: wait for its end rather than fail."""
        waiting = Retrying(
            retry=retry_if_exception_type(BlobBeingDeleted),
            stop=stop_after_attempt(6),
            wait=wait_random_exponential(multiplier=0.1, max=2),
            sleep=cancellation.wait,
            reraise=True,
        )
        waiting(self._pins.pin, holder, digests)

    def _held(self, blobs: Iterable[Descriptor]) -> dict[Digest, int]:
        digests = [blob.digest for blob in blobs]
        sizes: list[int | None] = []
        with ThreadPoolExecutor(_HEADS, thread_name_prefix="heads") as pool:
            for begin in range(0, len(digests), _ASKED_AT_ONCE):  # each that waits for a thread takes 1.5 kB
                sizes += pool.map(self._blobs.held, digests[begin : begin + _ASKED_AT_ONCE])
        return {digest: size for digest, size in zip(digests, sizes, strict=True) if size is not None}

    def _require_room(self, blobs: Sequence[Descriptor]) -> None:
        """Raise StorageFull before anything is read from the source, if it is known that the blobs do not fit."""
        size = sum(blob.size for blob in blobs)
        try:
            self._blobs.require_room(size)
        except StorageFull:
            found = [self._checkpoints.load(blob.digest) for blob in blobs]
            stored = sum(checkpoint.frontier * checkpoint.part_size for checkpoint in found if checkpoint)
            self._blobs.require_room(size - stored)

    def _transfer_all(
        self,
        reference: Reference,
        blobs: tuple[Descriptor, ...],
        optional: frozenset[Digest],
        holder: str,
        progress: Progress,
        cancellation: Cancellation,
        looked_at: float,
    ) -> Copied:
        with ExitStack() as open_:
            keeper = open_.enter_context(LeaseRenewer(self._leases, BLOB_LEASE_SECONDS))
            together = open_.enter_context(cancellation.child())

            def threads(count: int, name: str) -> ThreadPoolExecutor:
                return open_.enter_context(ThreadPoolExecutor(count, name, initializer=together.bind_thread))

            means = TransferContext(
                source=self._source,
                reference=reference,
                holder=holder,
                blobs=self._blobs,
                provenance=self._provenance,
                checkpoints=self._checkpoints,
                memory=self._memory,
                turns=LargestFirst(),
                own=threads(_BLOBS, "own"),
                fetchers=threads(_PARTS, "fetch"),
                storers=threads(_PARTS, "store"),
            )
            queue = BlobQueue(blobs, together)
            transfers = _Transfers(means, keeper, queue, progress, together, optional, looked_at=looked_at)
            return transfers.run(threads(_BLOBS, "blob"), min(len(blobs), _BLOBS))


class _Transfers:
    """The threads that bring the blobs of one image, and what they have left unfinished; used once."""

    def __init__(
        self,
        means: TransferContext,
        keeper: LeaseRenewer,
        queue: BlobQueue,
        progress: Progress,
        cancellation: Cancellation,
        optional: frozenset[Digest],
        *,
        looked_at: float,
    ) -> None:
        self._means = means
        self._optional = optional
        self._held: list[Digest] = []
        self._left_out: list[LeftOut] = []
        self._keeper = keeper
        self._queue = queue
        self._progress = progress
        self._cancellation = cancellation
        self._looked_at = looked_at
        self._lock = threading.Lock()
        self._unfinished: list[BlobTransfer] = []
        self._error: BaseException | None = None

    def run(self, pool: ThreadPoolExecutor, threads: int) -> Copied:
        """Bring all blobs; raises the first error, when every thread has stopped."""
        wait([pool.submit(self._bring_all) for _ in range(threads)])
        if self._error is None:
            return Copied(tuple(self._held), tuple(self._left_out))
        if not _goes_on_later(self._error):
            for transfer in self._unfinished:
                transfer.discard()
        raise self._error

    def _bring_all(self) -> None:
        try:
            while (blob := self._queue.next()) is not None:
                if self._bring(blob):
                    self._queue.brought()
                else:
                    self._queue.put_back(blob)
        except BaseException as error:  # noqa: BLE001 - a thread's error is raised by `run`
            with self._lock:
                self._error = self._error or error
            self._cancellation.interrupt("another blob of the image failed")

    def _bring(self, blob: Descriptor) -> bool:
        """Whether the blob is there now; False while another worker copies it."""
        with self._cancellation.child() as own:
            lease = self._keeper.take(keys.blob_lease(blob.digest), lambda: own.interrupt(LEASE_LOST))
            if lease is None:
                return False
            if self._has_come(blob):
                self._held.append(blob.digest)
                self._progress.advanced(blob.digest, "exists")
                self._keeper.give_back(lease)
                return True
            transfer = BlobTransfer(self._means, blob, lease, progress=self._progress, cancellation=own)
            if not self._finished(blob, transfer):
                return False
        self._keeper.give_back(lease)
        return True

    def _has_come(self, blob: Descriptor) -> bool:
        """Whether another worker brought the blob since it was looked for; under its lease, so that none does now."""
        known = monotonic() - self._looked_at < NEWS_SECONDS and not self._means.checkpoints.has_come(blob.digest)
        return not known and self._means.blobs.held(blob.digest) == blob.size

    def _finished(self, blob: Descriptor, transfer: BlobTransfer) -> bool:
        """Run the transfer; False if another worker took the blob over. An error leaves it among the unfinished,
        and its lease held, until it is clear what becomes of them.
        """
        self._progress.advanced(blob.digest, "copying")
        try:
            transfer.run()
        except (SourceError, ContentError) as error:
            if not self._done_without_source(blob, transfer, error):
                self._note_unfinished(blob, transfer, error)
                raise
            return True
        except OperationCanceled as interrupted:
            if interrupted.reason == LEASE_LOST:
                self._progress.advanced(blob.digest, "waiting")
                return False
            self._note_unfinished(blob, transfer, interrupted)
            raise
        except BaseException as error:
            self._note_unfinished(blob, transfer, error)
            raise
        self._progress.advanced(blob.digest, "copied", blob.size)
        return True

    def _done_without_source(self, blob: Descriptor, transfer: BlobTransfer, error: MirrorError) -> bool:
        """Whether the image can do without the source's answer for *blob*.

        Its descriptor may carry the content, or it may be of no known use.
        """
        if (content := blob.inline_content()) is not None:
            transfer.take(content)
            self._progress.advanced(blob.digest, "copied", blob.size)
            return True
        if blob.digest not in self._optional or error.waits_for is not None:
            return False
        transfer.discard()
        reason = f"{_UNKNOWN_USE} '{blob.media_type}', and the source does not serve it: {error.message}"
        self._left_out.append(LeftOut(blob, reason))
        self._progress.stopped(blob.digest, "skipped", reason, error.code)
        return True

    def _note_unfinished(self, blob: Descriptor, transfer: BlobTransfer, error: BaseException) -> None:
        """Keep the transfer until it is clear what becomes of it, and say why its blob has not come."""
        with self._lock:
            self._unfinished.append(transfer)
        if isinstance(error, OperationCanceled):
            self._progress.advanced(blob.digest, "waiting")
            return
        told = error if isinstance(error, MirrorError) else InternalError()
        self._progress.stopped(blob.digest, "failed", told.message, told.code)


def _goes_on_later(error: BaseException) -> bool:
    """Whether the task will be taken up again, by this worker or another, where the copy stopped.

    Not after a full disk: what was stored half would keep the space that other images need.
    """
    if isinstance(error, OperationCanceled):
        return error.resumable
    if isinstance(error, StorageFull):
        return False
    return isinstance(error, MirrorError) and error.waits_for is not None
