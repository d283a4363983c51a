"""Read a range of a blob in order, over as many connections as it takes."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Final, Self
from urllib.parse import urlsplit

import structlog
from tenacity import RetryCallState, Retrying, retry_if_exception, wait_random_exponential

from mirror.copying.cancellation import Cancellation
from mirror.copying.ports import BlobStream, Source
from mirror.errors import AnswerTruncated, MirrorError, SizeInvalid, SourceTooSlow, SourceUnreachable
from mirror.oci.descriptor import Descriptor
from mirror.oci.reference import Reference

_FRUITLESS: Final = 5
"""Connections in a row that may break without progress before the read fails."""
_GAIN: Final = 64 * 1024
"""Bytes that count as progress."""
_READ: Final = 1024 * 1024
"""Bytes requested from a stream at a time. A stream that needs a minute for so few gives up."""
_LOG = structlog.get_logger(__name__)


class RangesWithdrawn(Exception):
    """The source served one range of the blob, but sends the whole blob for another one."""


Report = Callable[[int], None]
"""Receives the number of bytes of the blob that have arrived since the last call."""


@dataclass(frozen=True, slots=True)
class BlobOrigin:
    """Where blobs are read: the repository of *reference*, or a *url* of their publisher."""

    source: Source
    reference: Reference
    url: str | None = None

    @property
    def server(self) -> str:
        """The registry, or the host of the URL. Nothing else of a URL is shown, as its query may be a secret."""
        return urlsplit(self.url).netloc if self.url else self.reference.registry

    def open(self, blob: Descriptor, offset: int, length: int) -> BlobStream:
        if self.url:
            return self.source.open_url(self.url, blob, offset=offset, length=length)
        return self.source.open_blob(self.reference, blob, offset=offset, length=length)


class RangeReader:
    """Reads the bytes of *blob* from *start* to *end*. Not safe to share between threads.

    After a connection breaks or stalls, a new one continues at the byte that was reached. No byte is fetched twice,
    unless the server knows no ranges. With *only_ranges*, RangesWithdrawn is raised if the whole blob is sent instead:
    many readers that each skip through it would fetch it many times.
    """

    def __init__(
        self,
        origin: BlobOrigin,
        blob: Descriptor,
        cancellation: Cancellation,
        *,
        start: int,
        end: int,
        only_ranges: bool = False,
    ) -> None:
        self._origin = origin
        self._blob = blob
        self._cancellation = cancellation
        self._reached = start
        self._end = end
        self._open = ExitStack()
        self._stream: BlobStream | None = None
        self._only_ranges = only_ranges
        self._fruitless = 0
        self._reached_before = start
        self._retrying = Retrying(
            retry=retry_if_exception(_is_worth_retrying),
            stop=self._has_failed_too_often,
            wait=wait_random_exponential(multiplier=0.2, max=5),
            sleep=cancellation.wait,
            before_sleep=self._note,
            reraise=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def gives_ranges(self) -> bool:
        """Connect, and return whether the server sends the requested range.

        If it sends the whole blob instead, this reader continues to the blob's end. A request for each range would
        fetch the whole blob each time.
        """
        self._retrying(self._connected)
        stream = self._connected()
        if _end_of(stream) < self._blob.size:
            self._only_ranges = True
            return True
        if self._end == self._blob.size:
            return True
        self._end = self._blob.size
        return False

    def fill(self, buffer: memoryview, report: Report) -> int:
        """Fill the buffer, or as much of it as the range still has. Return the bytes read, 0 at the end."""
        want = min(len(buffer), self._end - self._reached)
        begin = self._reached
        while self._reached - begin < want:
            self._retrying(self._read_some, buffer, begin, want, report)
        return want

    def require_end(self) -> None:
        """Raise SizeInvalid if more bytes follow the blob's last range: then it is another blob."""
        stream = self._retrying(self._connected)
        if stream.readinto(memoryview(bytearray(1))):
            raise SizeInvalid(str(self._blob.digest), self._blob.size, "more")

    def close(self) -> None:
        self._stream = None
        self._open.close()

    def _read_some(self, buffer: memoryview, begin: int, want: int, report: Report) -> None:
        """Read on until the buffer is full. The position is kept when the connection breaks."""
        try:
            stream = self._connected()
            while (done := self._reached - begin) < want:
                self._cancellation.check()
                if self._reached == _end_of(stream):  # a shorter range than requested
                    self.close()
                    stream = self._connected()
                count = stream.readinto(buffer[done : min(done + _READ, want, _end_of(stream) - begin)])
                if count == 0:
                    raise AnswerTruncated(self._origin.server, str(self._blob.digest))
                self._reached += count
                report(count)
        except MirrorError:
            self.close()
            self._cancellation.check()
            raise

    def _connected(self) -> BlobStream:
        """Return a stream at the byte that was reached."""
        if self._stream is not None:
            return self._stream
        length = self._end - self._reached
        try:
            with self._cancellation.bound_to_thread():
                opened = self._origin.open(self._blob, self._reached, length)
            stream = self._open.enter_context(opened)
            self._open.enter_context(self._cancellation.on_cancel(stream.interrupt))
            if self._only_ranges and stream.start < self._reached:
                raise RangesWithdrawn
            self._skip(stream, self._reached - stream.start)
        except BaseException:
            self.close()
            raise
        self._stream = stream
        return stream

    def _skip(self, stream: BlobStream, count: int) -> None:
        """Skip bytes that arrived before. A server that knows no ranges sends them again."""
        scratch = memoryview(bytearray(min(count, _READ)))
        while count > 0:
            self._cancellation.check()
            skipped = stream.readinto(scratch[: min(count, _READ)])
            if skipped == 0:
                raise AnswerTruncated(self._origin.server, str(self._blob.digest))
            count -= skipped

    def _has_failed_too_often(self, _: RetryCallState) -> bool:
        gained = self._reached - self._reached_before
        self._fruitless = 1 if gained >= _GAIN else self._fruitless + 1
        self._reached_before = self._reached
        return self._fruitless >= _FRUITLESS

    def _note(self, state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        code = error.code if isinstance(error, MirrorError) else ""
        _LOG.info(
            "resuming blob", blob=str(self._blob.digest), registry=self._origin.server, at=self._reached, code=code
        )


def _end_of(stream: BlobStream) -> int:
    return stream.start + stream.length


def _is_worth_retrying(error: BaseException) -> bool:
    """Return whether another connection may help. After the deadline of a request it does not."""
    if isinstance(error, SourceUnreachable | SourceTooSlow):
        return not error.out_of_time
    return isinstance(error, AnswerTruncated)
