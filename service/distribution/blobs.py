"""Blobs: redirected to S3, or streamed from it with ranges."""

from __future__ import annotations

from flask import Response, request

from mirror.errors import BlobNotHeld
from mirror.oci.digest import Digest
from mirror.storage.bucket import ObjectStream
from service.distribution.byte_range import ByteRange, asked_range
from service.preconditions import etag
from service.services import services


def blob(repository: str, digest_text: str) -> Response:
    """A blob that the repository links. HEAD is answered here, since a presigned GET does not answer HEAD.

    Raises InvalidDigest, BlobNotHeld or RangeUnsatisfiable.
    """
    digest = Digest.parse(digest_text)
    size = services().reader.blob_size(repository, digest)
    headers = {"Docker-Content-Digest": str(digest), "ETag": etag(digest), "Accept-Ranges": "bytes"}
    if request.if_none_match.contains_weak(str(digest)):
        return Response(status=304, headers=headers)
    if request.method == "HEAD":
        return _described(Response(), headers, size)
    if services().settings.redirects_blobs:
        location = services().blobs.presigned_url(digest)
        return Response(status=307, headers={"Docker-Content-Digest": str(digest), "Location": location})
    part = asked_range(request, digest, size)
    if part is None:
        return _described(Response(_stream(repository, digest)), headers, size)
    response = _described(Response(_stream(repository, digest, part), 206), headers, part.length)
    response.headers["Content-Range"] = f"bytes {part.start}-{part.stop - 1}/{size}"
    return response


def _stream(repository: str, digest: Digest, part: ByteRange | None = None) -> ObjectStream:
    """The bytes as S3 sends them, at most 1 MiB of them in memory; all of them, or a part.

    The server closes the stream also when the client has gone. Should S3 fail midway, the stream raises and the
    connection ends short of Content-Length, so nobody takes the part for the whole.
    """
    store = services().blobs
    stream = store.open(digest) if part is None else store.open(digest, part.start, part.length)
    if stream is None:
        raise BlobNotHeld(repository, str(digest))
    return stream


def _described(response: Response, headers: dict[str, str], length: int) -> Response:
    response.headers.update(headers)
    response.headers["Content-Type"] = "application/octet-stream"
    response.headers["Content-Length"] = str(length)
    return response
