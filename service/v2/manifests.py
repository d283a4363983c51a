"""Serve manifests and indexes, byte for byte as they were mirrored."""

from __future__ import annotations

from typing import Final

from flask import Response, request

from mirror.catalog.reader import checked_manifest
from mirror.errors import InvalidTag, StorageDamaged
from mirror.oci.digest import Digest
from mirror.oci.local_image import LocalImage
from mirror.oci.reference import is_tag
from service.core import core, service
from service.http.connections import in_thread
from service.http.preconditions import etag
from service.v2.manifest_cache import Described

_LARGE: Final = 128 * 1024
"""Bytes of a manifest that takes more than about 5 ms to parse."""


def manifest(repository: str, reference: str) -> Response:
    """Serve the manifest of a tag or a digest. ``Accept`` is ignored: a conversion would change the digest.

    Raises InvalidTag, InvalidDigest or ImageNotHeld.
    """
    name = _name(repository, reference)
    digest = core().reader.revision(name)
    headers = {"Docker-Content-Digest": str(digest), "ETag": etag(digest)}
    if request.if_none_match.contains_weak(str(digest)):
        return Response(status=304, headers=headers)
    cache = service().manifests
    described = cache.described(digest)
    if request.method == "HEAD" and described is not None:
        headers["Content-Length"] = str(described.size)
        return Response(headers=headers, content_type=described.media_type)
    body = cache.body(digest)
    if described is None or body is None:
        described, body = _read(name, digest, described)
    return Response(body, headers=headers, content_type=described.media_type)


def _read(name: LocalImage, digest: Digest, described: Described | None) -> tuple[Described, bytes]:
    """Read a manifest from the bucket into the cache. It is always hashed, and parsed if its type is not known."""
    body = core().reader.body(name, digest)
    if described is None:
        check = checked_manifest if len(body) < _LARGE else in_thread(checked_manifest)
        descriptor = check(body, digest).descriptor
        described = Described(descriptor.media_type, descriptor.size)
    elif Digest.of(body, digest.algorithm) != digest:
        raise StorageDamaged(str(digest), "its bytes have another digest")
    service().manifests.put(digest, described, body)
    return described, body


def _name(repository: str, reference: str) -> LocalImage:
    if ":" in reference:
        return LocalImage(repository, digest=Digest.parse(reference))
    if not is_tag(reference):
        raise InvalidTag(reference)
    return LocalImage(repository, reference)
