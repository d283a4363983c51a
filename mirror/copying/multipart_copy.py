"""Copy a blob of many parts: fetch ranges in parallel, and hash them in order while they are stored.

    coordinator   takes a buffer for each part, in the blob's order, and hands it to
    fetchers      one range each: source ──► buffer ──► frontier (hash) and
    storers       one part each: buffer ──► CRC ──► S3 ──► frontier ──► checkpoint, buffer free

Fetchers hash and storers compute CRCs, never the other way round (`mirror.oci.sha256` says why).

The first range shows whether the source knows ranges. If it does not, the coordinator reads the parts one after the
other from that one stream. If a source knows ranges at first and not later, the copy ends with RangesWithdrawn, and the
caller starts it again with *in_one_stream*.

An open stream occupies one of the few connections that the registry allows. So a thread with an open stream waits for
nothing else. It takes its memory before, and the first stream has a thread of its own. Otherwise a blob with a stream
but no memory, and another with memory but no stream, would wait for each other.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import partial
from typing import Final, cast

import structlog

from mirror.copying.blob_queue import LargestFirst
from mirror.copying.cancellation import Cancellation
from mirror.copying.hash_frontier import HashFrontier
from mirror.copying.memory import BufferRing, MemoryBudget
from mirror.copying.ports import Progress
from mirror.copying.range_reader import BlobOrigin, RangeReader
from mirror.errors import RedisUnavailable
from mirror.locks.checkpoints import Checkpoints
from mirror.locks.lease import Lease
from mirror.oci.descriptor import Descriptor
from mirror.oci.digest import Digest
from mirror.oci.verification import Hasher
from mirror.storage.blobs import BlobStore
from mirror.storage.multipart import StoredPart
from mirror.storage.provenance import ProvenanceStore
from mirror.storage.uploads import Upload

LEASE_LOST: Final = "another worker has the blob's lease"
_LOG = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class TransferContext:
    """What all transfers of one image's copy share. *holder* names the claim that the copy belongs to.

    ``own`` has as many threads as blobs are copied at once, so that each blob always has one. ``fetchers`` and
    ``storers`` work on the parts of all blobs.
    """

    origin: BlobOrigin
    holder: str
    blobs: BlobStore
    provenance: ProvenanceStore
    checkpoints: Checkpoints
    memory: MemoryBudget
    order: LargestFirst
    own: ThreadPoolExecutor
    fetchers: ThreadPoolExecutor
    storers: ThreadPoolExecutor

    def reader(
        self, blob: Descriptor, cancellation: Cancellation, *, start: int, end: int, only_ranges: bool = False
    ) -> RangeReader:
        return RangeReader(self.origin, blob, cancellation, start=start, end=end, only_ranges=only_ranges)


class BlobProgress:
    """Counts the bytes of one blob that have arrived, and reports them. Safe to share between threads."""

    def __init__(self, progress: Progress, digest: Digest) -> None:
        self._progress = progress
        self._digest = digest
        self._lock = threading.Lock()
        self._copied = 0

    def restart(self) -> None:
        with self._lock:
            self._copied = 0

    def arrived(self, count: int) -> None:
        with self._lock:
            self._copied += count
            self._progress.advanced(self._digest, "copying", self._copied)

    def verifying(self, size: int) -> None:
        self._progress.advanced(self._digest, "verifying", size)

    def checkpointed(self) -> None:
        self._progress.checkpointed(self._digest)


class MultipartCopy:
    """Copies the parts that *hasher* has not seen yet. Used once.

    *cancellation* belongs to this copy alone: the first error of any thread cancels the others.
    """

    def __init__(
        self,
        context: TransferContext,
        lease: Lease,
        upload: Upload,
        hasher: Hasher,
        progress: BlobProgress,
        cancellation: Cancellation,
        *,
        in_one_stream: bool,
    ) -> None:
        self._context = context
        self._blob = hasher.descriptor
        self._lease = lease
        self._upload = upload
        self._progress = progress
        self._cancellation = cancellation
        self._in_one_stream = in_one_stream
        self._first = hasher.seen // upload.part_size + 1
        self._last = -(-self._blob.size // upload.part_size)
        self._frontier = HashFrontier(hasher, first=self._first, save=self._save, release=self._release)
        self._give_back = context.memory.give_back
        self._opening: Future[None] = Future()
        self._work = _WorkGroup(cancellation)

    def run(self) -> None:
        """Return when all parts are hashed and stored. When all threads have stopped, raises their first error."""
        try:
            self._opening = self._work.submit(self._context.storers, self._open_upload)
            self._work.run(self._coordinate)
        finally:
            self._work.wait()
            self._frontier.abandon()
        self._work.raise_error()

    def _open_upload(self) -> None:
        """Open the upload in S3, and write its id into the checkpoint before it has a part, so that it has an owner."""
        self._cancellation.check()
        upload_id = self._upload.open().upload_id
        checkpoints, digest, holder = self._context.checkpoints, self._blob.digest, self._context.holder
        if self._first == 1 and upload_id is not None:
            part_size = self._upload.part_size
            self._write(partial(checkpoints.begin, self._lease, digest, upload_id, part_size, holder=holder))
        else:
            self._write(partial(checkpoints.take_over, self._lease, digest, holder=holder))

    def _coordinate(self) -> None:
        buffer = self._buffer(self._first)
        if self._in_one_stream:
            self._read_in_one_stream(self._reader(self._first, to_the_end=True), buffer)
            return
        reader = self._reader(self._first)
        try:
            knows_ranges = reader.gives_ranges()
        except BaseException:
            reader.close()
            self._context.memory.give_back(buffer)
            raise
        if not knows_ranges:
            self._read_in_one_stream(reader, buffer)
            return
        self._work.submit(self._context.own, self._fetch, self._first, reader, buffer)
        with self._context.order.turn(self._blob.size, self._cancellation):
            for number in range(self._first + 1, self._last + 1):
                reader = self._reader(number)
                self._work.submit(self._context.fetchers, self._fetch, number, reader, self._buffer(number))

    def _fetch(self, number: int, reader: RangeReader, buffer: bytearray) -> None:
        try:
            with reader:
                reader.fill(memoryview(buffer), self._progress.arrived)
        except BaseException:
            self._give_back(buffer)
            raise
        self._hash_and_store(number, memoryview(buffer))

    def _read_in_one_stream(self, reader: RangeReader, buffer: bytearray) -> None:
        """Read part after part from one stream, into buffers that the parts reuse."""
        with BufferRing(self._context.memory, buffer) as ring, reader:
            self._give_back = ring.give_back
            try:
                for number in range(self._first, self._last + 1):
                    self._read_part(number, reader, ring)
                reader.require_end()
            finally:
                self._work.wait()
                self._frontier.abandon()

    def _read_part(self, number: int, reader: RangeReader, ring: BufferRing) -> None:
        buffer = ring.take(self._cancellation)
        part = memoryview(buffer)[: self._size_of(number)]
        try:
            reader.fill(part, self._progress.arrived)
        except BaseException:
            ring.give_back(buffer)
            raise
        self._hash_and_store(number, part)

    def _hash_and_store(self, number: int, part: memoryview) -> None:
        """Hash the part while it is stored. From here on the frontier owns its buffer."""
        self._work.submit(self._context.storers, self._store, number, part)
        self._frontier.arrived(number, part)

    def _store(self, number: int, part: memoryview) -> None:
        self._cancellation.check()
        stored = self._upload.put_part(number, part)
        if stored is not None:
            self._frontier.stored(number, stored)

    def _release(self, part: memoryview) -> None:
        self._give_back(cast("bytearray", part.obj))

    def _save(self, frontier: int, midstate: bytes | None, stored: Mapping[int, StoredPart]) -> None:
        """Write the checkpoint if the hash can be resumed there. After the last part the upload completes."""
        self._opening.result()
        if midstate is None or frontier == self._last:
            return
        receipts = {number: (part.etag, part.crc32) for number, part in stored.items()}
        advance = self._context.checkpoints.advance
        self._write(partial(advance, self._lease, self._blob.digest, frontier, midstate, receipts))
        self._progress.checkpointed()

    def _write(self, write: Callable[[], bool]) -> None:
        """Write a checkpoint. Without Redis that is skipped: it costs a later worker time, but this one goes on."""
        try:
            is_ours = write()
        except RedisUnavailable:
            _LOG.warning("checkpoint not written: Redis does not answer", blob=str(self._blob.digest))
            return
        if not is_ours:
            self._cancellation.cancel(LEASE_LOST)

    def _reader(self, number: int, *, to_the_end: bool = False) -> RangeReader:
        """Return a reader of one part, or of everything from that part on. Only the first may get the whole blob."""
        start = (number - 1) * self._upload.part_size
        end = self._blob.size if to_the_end else start + self._size_of(number)
        only_ranges = number != self._first
        return self._context.reader(self._blob, self._cancellation, start=start, end=end, only_ranges=only_ranges)

    def _buffer(self, number: int) -> bytearray:
        return self._context.memory.take(self._size_of(number), self._cancellation)

    def _size_of(self, number: int) -> int:
        return min(self._upload.part_size, self._blob.size - (number - 1) * self._upload.part_size)


class _WorkGroup:
    """Work in several threads of which the first error cancels the rest. Safe to share between threads."""

    def __init__(self, cancellation: Cancellation) -> None:
        self._cancellation = cancellation
        self._lock = threading.Lock()
        self._futures: list[Future[None]] = []
        self._error: BaseException | None = None

    def submit(self, pool: ThreadPoolExecutor, work: Callable[..., None], *args: object) -> Future[None]:
        with self._lock:
            future = pool.submit(self.run, work, *args)
            self._futures.append(future)
        return future

    def run(self, work: Callable[..., None], *args: object) -> None:
        """Do the work in this thread. Its error is kept for `raise_error`."""
        try:
            work(*args)
        except BaseException as error:  # noqa: BLE001 - raised by `raise_error`
            with self._lock:
                self._error = self._error or error
            self._cancellation.cancel("a part of the blob failed")

    def wait(self) -> None:
        """Wait for all work. A fetch may still submit the storing of its part, so look again until nothing is new."""
        waited = 0
        while waited < len(self._futures):
            waited = len(self._futures)
            wait(self._futures)

    def raise_error(self) -> None:
        """Raise the first error of any work."""
        if self._error is not None:
            raise self._error
