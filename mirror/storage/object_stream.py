"""The bytes of an object, as S3 sends them: all of it, or a range."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Final, Self, cast

from botocore.response import StreamingBody

from mirror.errors import StorageUnavailable
from mirror.storage.s3 import translated

_CHUNK: Final = 2**20
"""Bytes per read: reads of 64 KiB halve the throughput with eight threads (measured)."""


@dataclass(frozen=True, slots=True)
class ByteRange:
    """The bytes of an object from *start* on, at most *length* of them. Raises ValueError for an impossible range."""

    start: int = 0
    length: int | None = None

    def __post_init__(self) -> None:
        if self.start < 0 or (self.length is not None and self.length < 1):
            raise ValueError(f"no range starts at {self.start} and has {self.length} bytes")

    @property
    def headers(self) -> dict[str, str]:
        """The header that asks S3 for the range. Empty for the whole object."""
        if self.start == 0 and self.length is None:
            return {}
        return {"Range": f"bytes={self.start}-{'' if self.length is None else self.start + self.length - 1}"}

    def size_of_object(self, given: int, content_range: str) -> int | None:
        """Return the size of the whole object, if *given* bytes of *content_range* are what was asked for.

        *content_range* is a header such as ``bytes 5-9/100``.
        """
        if not self.headers:
            return given
        unit, _, rest = content_range.partition(" ")
        span, _, size = rest.partition("/")
        if unit != "bytes" or span != f"{self.start}-{self.start + given - 1}" or not size.isdecimal():
            return None
        is_all = self.length is None or given == min(self.length, int(size) - self.start)
        return int(size) if is_all else None


class BodyIncomplete(StorageUnavailable):
    """The connection failed in the body of an object, or ended before all of it arrived."""


class ObjectStream:
    """The body of one object, read as it arrives: ``length`` bytes of an object of ``size`` bytes.

    Close it. Closing it early drops the connection. Every read raises BodyIncomplete if the connection fails, or ends
    before ``length`` bytes arrived.
    """

    def __init__(self, key: str, body: StreamingBody, wanted: ByteRange, *, given: int, content_range: str) -> None:
        """*given* is the length of the body. Raises StorageUnavailable if it is not the range that was *wanted*."""
        size = wanted.size_of_object(given, content_range)
        if size is None:
            body.close()
            raise StorageUnavailable(f"read {key}", "S3 answered with another range than asked for")
        self.length = given
        self.size = size
        self._action = f"read {key}"
        self._body = body
        self._left = given

    def readinto(self, buffer: bytearray | memoryview) -> int:
        """Fill *buffer*, all of it except at the end. Return the number of bytes, 0 only at the end."""
        with self._receiving():
            # The stubs mistake the buffer for a file.
            count = self._body.readinto(cast("IO[bytes]", buffer))
        self._advance(count, len(buffer))
        return count

    def read(self, limit: int) -> bytes:
        """Return *limit* bytes, fewer only at the end."""
        with self._receiving():
            chunk = self._body.read(limit)
        self._advance(len(chunk), limit)
        return chunk

    def __iter__(self) -> Iterator[bytes]:
        while chunk := self.read(_CHUNK):
            yield chunk

    def close(self) -> None:
        self._body.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def _receiving(self) -> Iterator[None]:
        try:
            with translated(self._action):
                yield
        except StorageUnavailable as error:
            raise BodyIncomplete(self._action, error.reason) from None

    def _advance(self, count: int, wanted: int) -> None:
        """Raise BodyIncomplete if the response ended early. botocore notices only at a read that returns nothing,
        and a caller may never make one.
        """
        if count < min(wanted, self._left):
            raise BodyIncomplete(self._action, "S3 ended its answer too early")
        self._left -= count
