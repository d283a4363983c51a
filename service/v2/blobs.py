"""Blobs: redirected to S3, or streamed from it with ranges."""

from __future__ import annotations

from flask import Response, request

from mirror.oci.digest import Digest
from service.core import core
from service.http.connections import CONNECTION, Connection
from service.http.preconditions import etag
from service.v2.byte_range import ByteRange, asked_range
from service.v2.pulls import Pull


def blob(repository: str, digest_text: str) -> Response:
    """A blob that the repository links. HEAD is answered here, since a presigned GET does not answer HEAD.

    Raises InvalidDigest, BlobNotHeld or RangeUnsatisfiable.
    """
    digest = Digest.parse(digest_text)
    size = core().reader.blob_size(repository, digest)
    headers = {"Docker-Content-Digest": str(digest), "ETag": etag(digest), "Accept-Ranges": "bytes"}
    if request.if_none_match.contains_weak(str(digest)):
        return Response(status=304, headers=headers)
    if request.method == "HEAD":
        return _described(Response(), headers, size)
    if core().settings.redirects_blobs:
        location = core().blobs.presigned_url(digest)
        return Response(status=307, headers={"Docker-Content-Digest": str(digest), "Location": location})
    part = asked_range(request, digest, size)
    pull = Pull(core().blobs, repository, digest, part or ByteRange(0, size), size)
    connection = request.environ.get(CONNECTION)
    if isinstance(connection, Connection):  # not so in a test client
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
