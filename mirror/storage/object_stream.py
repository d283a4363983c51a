"""The body of one object, read as it arrives."""

from __future__ import annotations

from collections.abc import Iterator
from typing import IO, Final, Self, cast

from botocore.response import StreamingBody

from mirror.storage.s3_failures import translated

CHUNK: Final = 2**20
"""Bytes per read: reads of 64 KiB halve the throughput with eight threads (measured)."""


class ObjectStream:
    """``length`` bytes of an object of ``size`` bytes. Close it; closing early drops the connection.

    Every read raises StorageUnavailable if the connection fails, or ends before ``length`` bytes came.
    """

    def __init__(self, key: str, body: StreamingBody, *, length: int, size: int) -> None:
        self.length = length
        self.size = size
        self._action = f"read {key}"
        self._body = body

    def readinto(self, buffer: bytearray | memoryview) -> int:
        """Fill the start of *buffer*; the number of bytes written, 0 only at the end."""
        with translated(self._action):
            return self._body.readinto(cast("IO[bytes]", buffer))  # its stubs mistake the buffer for a file

    def read(self, limit: int) -> bytes:
        """At most *limit* bytes, fewer only at the end."""
        with translated(self._action):
            return self._body.read(limit)

    def __iter__(self) -> Iterator[bytes]:
        while chunk := self.read(CHUNK):
            yield chunk

    def close(self) -> None:
        self._body.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
