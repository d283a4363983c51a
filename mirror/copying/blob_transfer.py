"""One blob on its way: read in order, hashed, uploaded part by part, completed only when digest and size matched."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Final, Self

import structlog
from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from mirror.copying.interruption import Interruption
from mirror.copying.memory import MemoryBudget
from mirror.copying.source import BlobStream, Source
from mirror.errors import AnswerTruncated, MirrorError, SizeInvalid, SourceUnreachable, Unavailable
from mirror.oci.descriptor import Descriptor
from mirror.oci.reference import Reference
from mirror.oci.verification import Hasher
from mirror.storage.blobs import BlobStore, Upload

_RESUMES: Final = 5
"""Connections that one part may need before the source counts as broken."""
_READ: Final = 1024 * 1024
_LOG = structlog.get_logger(__name__)

Report = Callable[[int], None]
"""Told how many bytes of the blob have arrived."""


def transfer(
    source: Source,
    reference: Reference,
    blob: Descriptor,
    store: BlobStore,
    memory: MemoryBudget,
    interruption: Interruption,
    report: Report,
    verifying: Callable[[], None],
) -> None:
    """Copy *blob* from the reference's repository into the bucket.

    A connection that breaks is taken up again at the byte it reached. Raises DigestMismatch or SizeInvalid for bytes
    that are not the described ones, what the source or the store raises, or Interrupted; whatever is raised, no object
    and no open upload is left.
    """
    upload = store.begin(blob)
    size = min(upload.part_size, blob.size)
    if size > memory.limit:
        raise SizeInvalid(str(blob.digest), blob.size, f"more than parts of {memory.limit} bytes can carry")
    try:
        with memory.buffer(size, interruption) as buffer, _Reader(source, reference, blob, interruption) as reader:
            hasher = Hasher(blob)
            number = 0
            while filled := reader.fill(buffer, report):
                number += 1
                hasher.update(buffer[:filled])
                upload.put_part(number, buffer[:filled])
            verifying()
            upload.complete(hasher.finish())
    except BaseException:
        _abort(upload, blob)
        raise


def _abort(upload: Upload, blob: Descriptor) -> None:
    """Leave nothing open; where S3 itself is away the sweep of open uploads has to do it later."""
    try:
        upload.abort()
    except Unavailable as error:
        _LOG.warning("upload left open", blob=str(blob.digest), reason=error.message)


class _Reader:
    """The blob's bytes in order, over as many connections as it takes."""

    def __init__(self, source: Source, reference: Reference, blob: Descriptor, interruption: Interruption) -> None:
        self._source = source
        self._reference = reference
        self._blob = blob
        self._interruption = interruption
        self._open = ExitStack()
        self._stream: BlobStream | None = None
        self._reached = 0
        self._retrying = Retrying(
            retry=retry_if_exception_type((AnswerTruncated, SourceUnreachable)),
            stop=stop_after_attempt(_RESUMES),
            wait=wait_random_exponential(multiplier=0.2, max=5),
            sleep=interruption.wait,
            before_sleep=self._note,
            reraise=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def fill(self, buffer: memoryview, report: Report) -> int:
        """Fill the buffer, or what is left of the blob; answers the bytes read, 0 behind the blob's end."""
        want = min(len(buffer), self._blob.size - self._reached)
        begin = self._reached
        while self._reached - begin < want:
            self._retrying(self._read_some, buffer, begin, want, report)
        if want == 0:
            self._require_end()
        return want

    def _read_some(self, buffer: memoryview, begin: int, want: int, report: Report) -> None:
        """Read on until the buffer is full; what was reached is kept when the connection breaks."""
        try:
            stream = self._stream or self._connect()
            while (done := self._reached - begin) < want:
                self._interruption.check()
                count = stream.readinto(buffer[done : min(done + _READ, want)])
                if count == 0:
                    raise AnswerTruncated(self._reference.registry, str(self._blob.digest))
                self._reached += count
                report(self._reached)
        except MirrorError:
            self._close()
            self._interruption.check()
            raise

    def _connect(self) -> BlobStream:
        """Open the blob at the byte that was reached, through the registry's own URL: redirect targets expire."""
        stream = self._open.enter_context(self._source.open_blob(self._reference, self._blob, offset=self._reached))
        self._open.enter_context(self._interruption.waking(stream.interrupt))
        self._stream = stream
        skip = self._reached - stream.start
        scratch = memoryview(bytearray(min(skip, _READ)))
        while skip > 0:
            count = stream.readinto(scratch[: min(skip, _READ)])
            if count == 0:
                raise AnswerTruncated(self._reference.registry, str(self._blob.digest))
            skip -= count
        return stream

    def _require_end(self) -> None:
        """A source that sends more than the described bytes sends another blob."""
        if self._stream is None:
            if self._blob.size > 0:
                return
            self._connect()
        if self._stream is not None and self._stream.readinto(memoryview(bytearray(1))):
            raise SizeInvalid(str(self._blob.digest), self._blob.size, "more")

    def _close(self) -> None:
        self._stream = None
        self._open.close()

    def _note(self, state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        code = error.code if isinstance(error, MirrorError) else ""
        _LOG.info(
            "resuming blob", blob=str(self._blob.digest), registry=self._reference.registry, at=self._reached, code=code
        )
