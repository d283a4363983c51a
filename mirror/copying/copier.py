"""Copy the blobs of one image: pin them, ask the bucket which it holds, plan, and copy several at a time."""

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

from mirror.copying.blob_queue import BlobQueue, LargestFirst
from mirror.copying.blob_transfer import BlobTransfer
from mirror.copying.cancellation import Cancellation, OperationCanceled
from mirror.copying.foreign_layers import BlobFetcher, find_unserved, leave_out_all, require_urls
from mirror.copying.memory import ManifestMemory, MemoryBudget
from mirror.copying.multipart_copy import LEASE_LOST, TransferContext
from mirror.copying.plan import CopyPlan, plan_copy
from mirror.copying.ports import PlannedBlob, Progress, Source
from mirror.copying.range_reader import BlobOrigin
from mirror.errors import (
    BlobBeingDeleted,
    InternalError,
    MirrorError,
    RedisUnavailable,
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
from mirror.records.rules import ForeignLayers
from mirror.redis import keys
from mirror.storage.blobs import BlobStore
from mirror.storage.provenance import ProvenanceStore

BLOB_LEASE_SECONDS: Final = 15.0
"""Seconds until another worker can take over the blob of a dead worker."""
_BLOBS: Final = 16
_PARTS: Final = 12
_HEADS: Final = 16
_HEADS_QUEUED: Final = 1_000
"""HEADs that are queued at a time: each one in the queue takes 1.5 kB."""
_LOG = structlog.get_logger(__name__)
_CONTRADICTED: Final = "an entry of the index that gives this digest another size than it has"


@dataclass(frozen=True, slots=True)
class Copied:
    """The result of a copy. ``held`` blobs were not read from the source. The copy is without those ``left_out``."""

    held: tuple[Digest, ...]
    left_out: tuple[LeftOut, ...]

    @property
    def lacks_foreign_layers(self) -> bool:
        return any(entry.descriptor.is_foreign_layer for entry in self.left_out)


@dataclass(frozen=True, slots=True)
class Survey:
    """What is to be done for the blobs of an image. The copy is without those ``left_out``.

    ``foreign`` counts the foreign layers for which the source was asked. ``from_urls`` are those that it does not serve
    and that are copied all the same.
    """

    plan: CopyPlan
    left_out: tuple[LeftOut, ...]
    foreign: int
    from_urls: frozenset[Digest] = frozenset()


class Copier:
    """Copies an image's blobs into the bucket. Manifests and links belong to the catalog.

    The fleet fetches each blob once: the worker that holds the blob's lease copies it, and others wait. The lease only
    saves work. If two workers copy a blob at once, each completes only what it has verified. So the object is the same,
    whichever completes last. No copy ever deletes an object.
    """

    def __init__(
        self,
        source: Source,
        blobs: BlobStore,
        provenance: ProvenanceStore,
        pins: Pins,
        leases: Leases,
        checkpoints: Checkpoints,
        memory: MemoryBudget,
    ) -> None:
        self._source = source
        self._blobs = blobs
        self._provenance = provenance
        self._pins = pins
        self._leases = leases
        self._checkpoints = checkpoints
        self._memory = memory

    def manifest_memory(self, reference: Reference, cancellation: Cancellation) -> ManifestMemory:
        """Return the image's share of the memory budget, as a context for its whole task."""
        return ManifestMemory(self._memory, str(reference), cancellation)

    def survey(
        self, reference: Reference, image: Image, foreign_layers: ForeignLayers, cancellation: Cancellation
    ) -> Survey:
        """Find out which blobs of *image* must be copied. Writes nothing.

        The bucket is asked for every blob. The source is asked for each foreign layer that the bucket does not hold and
        the manifest does not embed, unless those are left out. Raises ForeignLayerUnavailable for one that is to be
        included, if the source does not serve it and it has no URL.
        """
        left_out = leave_out_all(image) if foreign_layers == "leave-out" else ()
        wanted = image.leaving_out(left_out)
        held_sizes = self._held(wanted.blobs)
        missing = (blob for blob in wanted.blobs if blob.digest not in held_sizes)
        asked = [blob for blob in missing if blob.is_foreign_layer and blob.data is None]
        unserved = find_unserved(self._source, reference, asked, cancellation)
        from_urls: frozenset[Digest] = frozenset()
        if foreign_layers == "include":
            from_urls = require_urls(unserved)
        else:
            left_out += unserved
        plan = plan_copy(image.leaving_out(left_out), held_sizes)
        contradicted = (LeftOut(blob, _CONTRADICTED) for blob in plan.contradicted)
        return Survey(plan, (*left_out, *contradicted), len(asked), from_urls)

    def requests(self, blob: Descriptor) -> int:
        """Return the requests that a copy of *blob* sends to a source that serves ranges: one for each part."""
        return self._blobs.parts(blob.size)

    def copy(
        self,
        reference: Reference,
        image: Image,
        *,
        foreign_layers: ForeignLayers = "when-held",
        holder: str,
        progress: Progress,
        cancellation: Cancellation,
    ) -> Copied:
        """Make the bucket hold every blob of *image*.

        All blobs are pinned for *holder* before the bucket is asked for them, so that no collector deletes one that was
        found. *foreign_layers* says which of those are copied. Entries of an index with no known use are left out if
        the source does not serve them.

        When all transfers have stopped, raises the first error of any blob. If the task waits for the cause of that
        error, or is resumed after a cancellation, open uploads and checkpoints stay. Otherwise nothing half-written is
        left.
        """
        everything = list(image.sizes)
        self._pin(holder, everything, cancellation)
        try:
            return self._copy_pinned(reference, image, foreign_layers, holder, progress, cancellation)
        except MirrorError as error:
            if not isinstance(error, RedisUnavailable):
                self._unpin(holder, everything)
            raise

    def _unpin(self, holder: str, digests: list[Digest]) -> None:
        """Unpin after a failed copy. The next attempt takes pins of its own."""
        try:
            self._pins.unpin(holder, digests)
        except RedisUnavailable:
            _LOG.info("the pins of a failed copy are left to expire", pins=len(digests))

    def _copy_pinned(
        self,
        reference: Reference,
        image: Image,
        foreign_layers: ForeignLayers,
        holder: str,
        progress: Progress,
        cancellation: Cancellation,
    ) -> Copied:
        asked_at = monotonic()
        survey = self.survey(reference, image, foreign_layers, cancellation)
        plan, left_out = survey.plan, survey.left_out
        progress.planned(
            [
                *(PlannedBlob(blob, "waiting") for blob in plan.to_copy),
                *(PlannedBlob(blob, "exists") for blob in plan.held),
                *(PlannedBlob(one.descriptor, "skipped", one.reason, one.code) for one in (*image.left_out, *left_out)),
            ]
        )
        held = tuple(blob.digest for blob in plan.held)
        if not plan.to_copy:
            return Copied(held, left_out)
        self._require_room(plan.to_copy)
        optional = frozenset(blob.digest for blob in image.optional_blobs)
        fetcher = BlobFetcher(optional, survey.from_urls, foreign_layers == "include")
        later = self._transfer_all(reference, plan.to_copy, fetcher, holder, progress, cancellation, asked_at)
        return Copied(held + later.held, left_out + later.left_out)

    def _pin(self, holder: str, digests: list[Digest], cancellation: Cancellation) -> None:
        """Pin the blobs. A deletion that is in progress takes moments, so wait for its end."""
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
            for begin in range(0, len(digests), _HEADS_QUEUED):
                sizes += pool.map(self._blobs.held, digests[begin : begin + _HEADS_QUEUED])
        return {digest: size for digest, size in zip(digests, sizes, strict=True) if size is not None}

    def _require_room(self, blobs: Sequence[Descriptor]) -> None:
        """Raise StorageFull, before anything is read from the source, if the blobs are known not to fit."""
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
        fetcher: BlobFetcher,
        holder: str,
        progress: Progress,
        cancellation: Cancellation,
        asked_at: float,
    ) -> Copied:
        with ExitStack() as open_:
            renewer = open_.enter_context(LeaseRenewer(self._leases, BLOB_LEASE_SECONDS))
            own = open_.enter_context(cancellation.child())

            def threads(count: int, name: str) -> ThreadPoolExecutor:
                return open_.enter_context(ThreadPoolExecutor(count, name, initializer=own.bind_thread))

            context = TransferContext(
                origin=BlobOrigin(self._source, reference),
                holder=holder,
                blobs=self._blobs,
                provenance=self._provenance,
                checkpoints=self._checkpoints,
                memory=self._memory,
                order=LargestFirst(),
                own=threads(_BLOBS, "own"),
                fetchers=threads(_PARTS, "fetch"),
                storers=threads(_PARTS, "store"),
            )
            queue = BlobQueue(blobs, own)
            transfers = _Transfers(context, renewer, queue, progress, own, fetcher, asked_at=asked_at)
            return transfers.run(threads(_BLOBS, "blob"), min(len(blobs), _BLOBS))


class _Transfers:
    """The threads that copy the blobs of one image, and the transfers that did not finish. Used once."""

    def __init__(
        self,
        context: TransferContext,
        renewer: LeaseRenewer,
        queue: BlobQueue,
        progress: Progress,
        cancellation: Cancellation,
        fetcher: BlobFetcher,
        *,
        asked_at: float,
    ) -> None:
        self._context = context
        self._fetcher = fetcher
        self._held: list[Digest] = []
        self._left_out: list[LeftOut] = []
        self._renewer = renewer
        self._queue = queue
        self._progress = progress
        self._cancellation = cancellation
        self._asked_at = asked_at
        self._lock = threading.Lock()
        self._unfinished: list[BlobTransfer] = []
        self._error: BaseException | None = None

    def run(self, pool: ThreadPoolExecutor, threads: int) -> Copied:
        """Copy all blobs. When every thread has stopped, raises the first error."""
        wait([pool.submit(self._copy_until_done) for _ in range(threads)])
        if self._error is None:
            return Copied(tuple(self._held), tuple(self._left_out))
        if not _is_resumed_later(self._error):
            for transfer in self._unfinished:
                transfer.discard()
        raise self._error

    def _copy_until_done(self) -> None:
        try:
            while (blob := self._queue.next()) is not None:
                if self._copy(blob):
                    self._queue.done()
                else:
                    self._queue.put_back(blob)
        except BaseException as error:  # noqa: BLE001 - raised by `run`
            with self._lock:
                self._error = self._error or error
            self._cancellation.cancel("another blob of the image failed")

    def _copy(self, blob: Descriptor) -> bool:
        """Copy the blob, or return False while another worker copies it."""
        with self._cancellation.child() as own:
            lease = self._renewer.take(keys.blob_lease(blob.digest), lambda: own.cancel(LEASE_LOST))
            if lease is None:
                return False
            if self._was_copied_meanwhile(blob):
                self._held.append(blob.digest)
                self._progress.advanced(blob.digest, "exists")
                self._renewer.give_back(lease)
                return True
            transfer = BlobTransfer(self._context, blob, lease, progress=self._progress, cancellation=own)
            if not self._run(blob, transfer):
                return False
        self._renewer.give_back(lease)
        return True

    def _was_copied_meanwhile(self, blob: Descriptor) -> bool:
        """Return whether another worker has copied the blob since the bucket was asked.

        The caller holds the blob's lease, so no other worker copies it now.
        """
        is_recent = monotonic() - self._asked_at < NEWS_SECONDS
        if is_recent and not self._context.checkpoints.is_announced(blob.digest):
            return False
        return self._context.blobs.held(blob.digest) == blob.size

    def _run(self, blob: Descriptor, transfer: BlobTransfer) -> bool:
        """Run the transfer. Return False if another worker took the blob over.

        After an error, the transfer stays among the unfinished ones and its lease stays held, until `run` decides
        whether they are discarded.
        """
        self._progress.advanced(blob.digest, "copying")
        try:
            left_out = self._fetcher.fetch(blob, transfer)
        except OperationCanceled as canceled:
            if canceled.reason == LEASE_LOST:
                self._progress.advanced(blob.digest, "waiting")
                return False
            self._note_unfinished(blob, transfer, canceled)
            raise
        except BaseException as error:
            self._note_unfinished(blob, transfer, error)
            raise
        if left_out:
            self._left_out.append(left_out)
            self._progress.stopped(blob.digest, "skipped", left_out.reason, left_out.code)
        else:
            self._progress.advanced(blob.digest, "copied", blob.size)
        return True

    def _note_unfinished(self, blob: Descriptor, transfer: BlobTransfer, error: BaseException) -> None:
        """Keep the transfer until `run` decides about it, and report why its blob was not copied."""
        with self._lock:
            self._unfinished.append(transfer)
        if isinstance(error, OperationCanceled):
            self._progress.advanced(blob.digest, "waiting")
            return
        shown = error if isinstance(error, MirrorError) else InternalError()
        self._progress.stopped(blob.digest, "failed", shown.message, shown.code)


def _is_resumed_later(error: BaseException) -> bool:
    """Return whether the task is resumed later, by this worker or another one, where the copy stopped.

    After a full disk it is not: half-stored blobs would keep the space that other images need.
    """
    if isinstance(error, OperationCanceled):
        return error.resumable
    if isinstance(error, StorageFull):
        return False
    return isinstance(error, MirrorError) and error.waits_for is not None
