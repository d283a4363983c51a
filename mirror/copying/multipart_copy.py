"""A blob of many parts: fetched in parallel ranges, hashed in order while its parts are stored.

    coordinator   takes a buffer for each part, in the blob's order, and hands it to
    fetchers      one range each: source ──► buffer ──► frontier (hash) and
    storers       one part each: buffer ──► CRC ──► S3 ──► frontier ──► checkpoint, buffer free

Fetchers hash and storers make CRCs, never the other way round (`mirror.oci.sha256` says why).

The first range shows whether the source knows ranges. If not, the coordinator reads the parts one after the other from
that one stream. A source that knows them at first and not later ends the copy with RangesWithdrawn. It is to be made
again *in_one_stream*.

An open stream occupies one of the few connections that the registry allows, so who has one waits for nothing else: not
for memory, which is taken before, and not for a thread, which the first stream has of its own. Otherwise a blob with a
stream and no memory, and another with memory and no stream, would wait for each other.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import partial
from typing import Final, cast

import structlog

from mirror.copying.cancellation import Cancellation
from mirror.copying.hash_frontier import HashFrontier
from mirror.copying.memory import BufferRing
from mirror.copying.range_reader import RangeReader, Report
from mirror.copying.transfer_context import TransferContext
from mirror.errors import RedisUnavailable
from mirror.locks.lease import Lease
from mirror.oci.descriptor import Descriptor
from mirror.oci.verification import Hasher
from mirror.storage.bucket import StoredPart
from mirror.storage.uploads import Upload

LEASE_LOST: Final = "another worker has the blob's lease"
_LOG = structlog.get_logger(__name__)


class MultipartCopy:
    """Copies the parts behind the first *done* ones, which *hasher* has seen; used once."""

    def __init__(
        self,
        means: TransferContext,
        blob: Descriptor,
        lease: Lease,
        upload: Upload,
        hasher: Hasher,
        cancellation: Cancellation,
        *,
        done: int,
        in_one_stream: bool,
        arrived: Report,
        checkpointed: Callable[[], None],
    ) -> None:
        self._means = means
        self._blob = blob
        self._lease = lease
        self._upload = upload
        self._cancellation = cancellation
        self._in_one_stream = in_one_stream
        self._arrived = arrived
        self._checkpointed = checkpointed
        self._first, self._last = done + 1, -(-blob.size // upload.part_size)
        self._frontier = HashFrontier(hasher, first=self._first, save=self._save, release=self._release)
        self._give_back = means.memory.give_back
        self._opening: Future[None] = Future()
        self._jobs: list[Future[None]] = []
        self._lock = threading.Lock()
        self._error: BaseException | None = None

    def run(self) -> None:
        """Return when all parts are hashed and stored; raises the first error of any, when all threads have stopped."""
        try:
            self._opening = self._in(self._means.storers, self._open)
            self._do(self._coordinate)
        finally:
            self._wait_for_all()
            self._frontier.abandon()
        if self._error is not None:
            raise self._error

    def _open(self) -> None:
        """Have S3 expect the parts, and note the upload before anything is in it, so that it is somebody's."""
        self._cancellation.check()
        upload_id = self._upload.open().upload_id
        checkpoints, digest, holder = self._means.checkpoints, self._blob.digest, self._means.holder
        if self._first == 1 and upload_id is not None:
            part_size = self._upload.part_size
            self._note(partial(checkpoints.begin, self._lease, digest, upload_id, part_size, holder=holder))
        else:
            self._note(partial(checkpoints.adopt, self._lease, digest, holder=holder))

    def _coordinate(self) -> None:
        buffer = self._taken(self._first)
        if self._in_one_stream:
            self._read_through(self._reader_to_the_end(), buffer)
            return
        reader = self._reader(self._first)
        try:
            knows_ranges = reader.gives_ranges()
        except BaseException:
            reader.close()
            self._means.memory.give_back(buffer)
            raise
        if not knows_ranges:
            self._read_through(reader, buffer)
            return
        self._in(self._means.own, self._fetch, self._first, reader, buffer)
        with self._means.turns.turn(self._blob.size, self._cancellation):
            for number in range(self._first + 1, self._last + 1):
                self._in(self._means.fetchers, self._fetch, number, self._reader(number), self._taken(number))

    def _taken(self, number: int) -> bytearray:
        return self._means.memory.take(self._size_of(number), self._cancellation)

    def _fetch(self, number: int, reader: RangeReader, buffer: bytearray) -> None:
        try:
            with reader:
                reader.fill(memoryview(buffer), self._arrived)
        except BaseException:
            self._give_back(buffer)
            raise
        self._pass_on(number, memoryview(buffer))

    def _read_through(self, reader: RangeReader, buffer: bytearray) -> None:
        """Read part after part from one stream, with buffers that go round among them."""
        with BufferRing(self._means.memory, buffer) as ring, reader:
            self._give_back = ring.give_back
            try:
                for number in range(self._first, self._last + 1):
                    self._read_on(number, reader, ring)
                reader.require_end()
            finally:
                self._wait_for_all()
                self._frontier.abandon()

    def _read_on(self, number: int, reader: RangeReader, ring: BufferRing) -> None:
        buffer = ring.take(self._cancellation)
        part = memoryview(buffer)[: self._size_of(number)]
        try:
            reader.fill(part, self._arrived)
        except BaseException:
            ring.give_back(buffer)
            raise
        self._pass_on(number, part)

    def _pass_on(self, number: int, part: memoryview) -> None:
        """The frontier has the part from here on; it is stored while it is hashed."""
        self._in(self._means.storers, self._store, number, part)
        self._frontier.arrived(number, part)

    def _store(self, number: int, part: memoryview) -> None:
        self._cancellation.check()
        stored = self._upload.put_part(number, part)
        if stored is not None:
            self._frontier.stored(number, stored)

    def _release(self, part: memoryview) -> None:
        self._give_back(cast("bytearray", part.obj))

    def _save(self, frontier: int, midstate: bytes | None, stored: Mapping[int, StoredPart]) -> None:
        """Write the checkpoint, where the hash can be left; behind the last part completing follows at once."""
        self._opening.result()
        if midstate is None or frontier == self._last:
            return
        receipts = {number: (part.etag, part.crc32) for number, part in stored.items()}
        advance = self._means.checkpoints.advance
        self._note(partial(advance, self._lease, self._blob.digest, frontier, midstate, receipts))
        self._checkpointed()

    def _note(self, write: Callable[[], bool]) -> None:
        """A Redis that is away costs a later worker some time, not this one its work."""
        try:
            ours = write()
        except RedisUnavailable:
            _LOG.warning("checkpoint not written: Redis does not answer", blob=str(self._blob.digest))
            return
        if not ours:
            self._cancellation.interrupt(LEASE_LOST)

    def _reader(self, number: int) -> RangeReader:
        start = (number - 1) * self._upload.part_size
        end, is_first = start + self._size_of(number), number == self._first
        return self._means.reader(self._blob, self._cancellation, start=start, end=end, only_ranges=not is_first)

    def _reader_to_the_end(self) -> RangeReader:
        start = (self._first - 1) * self._upload.part_size
        return self._means.reader(self._blob, self._cancellation, start=start, end=self._blob.size)

    def _size_of(self, number: int) -> int:
        return min(self._upload.part_size, self._blob.size - (number - 1) * self._upload.part_size)

    # -- threads

    def _in(self, pool: ThreadPoolExecutor, work: Callable[..., None], *args: object) -> Future[None]:
        with self._lock:
            job = pool.submit(self._do, work, *args)
            self._jobs.append(job)
        return job

    def _do(self, work: Callable[..., None], *args: object) -> None:
        """Do a piece of work; its error stops all the others."""
        try:
            work(*args)
        except BaseException as error:  # noqa: BLE001 - a thread's error is raised by `run`
            with self._lock:
                self._error = self._error or error
            self._cancellation.interrupt("a part of the blob failed")

    def _wait_for_all(self) -> None:
        """A fetch may still add the storing of its part, so look again until there is nothing new."""
        waited = 0
        while waited < len(self._jobs):
            waited = len(self._jobs)
            wait(self._jobs)
