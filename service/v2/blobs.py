"""Serve blobs: redirect to S3, or stream from it with ranges, as fast as the client reads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from time import monotonic
from typing import Final

from flask import Response, request

from mirror.errors import BlobNotHeld
from mirror.oci.digest import Digest
from mirror.storage.blobs import BlobStore
from mirror.storage.object_stream import ObjectStream
from service.core import core, service
from service.http.connections import CONNECTION, Connection
from service.http.preconditions import etag
from service.v2.ranges import RequestedRange, is_same_version, requested_range

PIECE: Final = 128 * 1024
"""Bytes that are read at once for a client that is slow, or not known to be quick."""
LARGE_PIECE: Final = 256 * 1024
"""Bytes that are read at once for a quick client. A MiB would cost a tenth less CPU per byte (measured). But a client
that becomes slow would then hold four times the memory."""
_QUICK: Final = 1.0
"""Seconds in which a quick client reads a piece."""


def blob(repositories: Sequence[str], digest_text: str) -> Response:
    """Serve a blob that one of the repositories links.

    HEAD is answered here and not redirected, because a URL that is presigned for GET refuses HEAD.
    Raises InvalidDigest, BlobNotHeld or RangeUnsatisfiable.
    """
    digest = Digest.parse(digest_text)
    pulls = service().pulls
    repository, size = pulls.blob(repositories, digest)
    headers = {"Docker-Content-Digest": str(digest), "ETag": etag(digest), "Accept-Ranges": "bytes"}
    if request.if_none_match.contains_weak(str(digest)):
        return Response(status=304, headers=headers)
    if request.method == "HEAD":
        return _described(Response(), headers, size)
    if core().settings.redirects_blobs:
        location = pulls.url(digest)
        return Response(status=307, headers={"Docker-Content-Digest": str(digest), "Location": location})
    is_current = is_same_version(request.headers.get("If-Range"), etag(digest))
    part = requested_range(request.headers.get("Range"), size) if is_current else None
    with pulls.s3_requests:
        pull = BlobPull(pulls.blobs, repository, digest, part or RequestedRange(0, size), size)
    connection = request.environ.get(CONNECTION)
    if isinstance(connection, Connection):  # a test client has none
        connection.on_stall(pull.release)
    if part is None:
        return _described(Response(pull), headers, size)
    response = _described(Response(pull, 206), headers, part.length)
    response.headers["Content-Range"] = f"bytes {part.start}-{part.stop - 1}/{size}"
    return response


def _described(response: Response, headers: dict[str, str], length: int) -> Response:
    response.headers.update(headers)
    response.headers["Content-Type"] = "application/octet-stream"
    response.headers["Content-Length"] = str(length)
    return response


class BlobPull:
    """A part of a blob of *size* bytes, as an iterable. The server closes it, even if the client has gone.

    The first piece is a request to S3 of its own, and is read before the answer begins. So a missing blob is a clean
    404 and no broken stream. A client that reads this piece quickly gets a stream of the rest. A slow client gets piece
    after piece. It holds neither a connection to S3 nor the up to 4 MiB that S3 would send into kernel buffers.

    If S3 fails in the middle, the iteration raises and the connection ends before Content-Length. So the client sees
    that the blob is not complete.
    """

    def __init__(self, store: BlobStore, repository: str, digest: Digest, part: RequestedRange, size: int) -> None:
        """Raises BlobNotHeld, StorageUnavailable or StorageRefused."""
        self._store = store
        self._repository = repository
        self._digest = digest
        self._position, self._end = part.start, part.stop
        self._size = size
        self._stream: ObjectStream | None = None
        self._first = self._read_piece() if part.length else b""

    def __iter__(self) -> Iterator[bytes]:
        data, self._first = self._first, b""
        while data:
            self._position += len(data)
            started = monotonic()
            yield data
            is_quick = monotonic() - started < _QUICK
            del data  # frees it before the next piece is read
            if self._position == self._end:
                return
            data = self._read_stream() if is_quick else self._read_piece()

    def release(self) -> None:
        """Close the stream from S3. Must not be called while a piece is read."""
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.close()

    def close(self) -> None:
        self.release()

    def _read_piece(self) -> bytes:
        self.release()
        length = min(PIECE, self._end - self._position)
        with self._open(length) as stream:
            return stream.read(length)

    def _read_stream(self) -> bytes:
        left = self._end - self._position
        self._stream = self._stream or self._open(left)
        return self._stream.read(min(LARGE_PIECE, left))

    def _open(self, length: int) -> ObjectStream:
        reaches_end = self._position + length == self._size
        stream = self._store.open(self._digest, self._position, None if reaches_end else length)
        if stream is None:
            raise BlobNotHeld(self._repository, str(self._digest))
        return stream
