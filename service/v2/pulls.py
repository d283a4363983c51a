"""The bytes of a blob on their way from S3 to a client that takes them at its own pace."""

from __future__ import annotations

from collections.abc import Iterator
from time import monotonic
from typing import Final

from mirror.errors import BlobNotHeld
from mirror.oci.digest import Digest
from mirror.storage.blobs import BlobStore
from mirror.storage.bucket import ObjectStream
from service.v2.byte_range import ByteRange

PIECE: Final = 128 * 1024
"""Bytes that are read for a client of which it is not known, or not any more, that it is quick."""
LARGE_PIECE: Final = 256 * 1024
"""Bytes that are read at once for a quick client. A MiB costs a tenth less CPU per byte (measured), and four times the
memory for clients that pretend."""
_QUICK: Final = 1.0
"""Seconds in which a quick client takes a piece."""


class Pull:
    """A part of a blob of *size* bytes, as an iterable that the server closes, also when the client has gone.

    The first piece is asked of S3 alone, and read before the answer begins: a missing blob is an answer and no broken
    stream. Only a client that takes it quickly gets a stream of the rest. A slow one gets piece after piece, and holds
    neither a connection to S3 nor what S3 would push into it: up to 4 MiB in kernel buffers.

    Should S3 fail midway, the iteration raises and the client's connection ends short of Content-Length, so nobody
    takes the part for the whole.
    """

    def __init__(self, store: BlobStore, repository: str, digest: Digest, part: ByteRange, size: int) -> None:
        """Raises BlobNotHeld, StorageUnavailable or StorageRefused."""
        self._store = store
        self._repository = repository
        self._digest = digest
        self._position, self._end = part.start, part.stop
        self._size = size
        self._stream: ObjectStream | None = None
        self._first = self._alone() if part.length else b""

    def __iter__(self) -> Iterator[bytes]:
        data, self._first = self._first, b""
        while data:
            self._position += len(data)
            began = monotonic()
            yield data
            is_quick = monotonic() - began < _QUICK
            del data  # before the next piece is read
            if self._position == self._end:
                return
            data = self._streamed() if is_quick else self._alone()

    def release(self) -> None:
        """Close the stream from S3. Not while a piece is being read."""
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.close()

    def close(self) -> None:
        self.release()

    def _alone(self) -> bytes:
        self.release()
        length = min(PIECE, self._end - self._position)
        with self._open(length) as stream:
            return stream.read(length)

    def _streamed(self) -> bytes:
        left = self._end - self._position
        self._stream = self._stream or self._open(left)
        return self._stream.read(min(LARGE_PIECE, left))

    def _open(self, length: int) -> ObjectStream:
        reaches_end = self._position + length == self._size
        stream = self._store.open(self._digest, self._position, None if reaches_end else length)
        if stream is None:
            raise BlobNotHeld(self._repository, str(self._digest))
        return stream
