"""Serve manifests and indexes, byte for byte as they were mirrored."""

from __future__ import annotations

from collections.abc import Sequence

from flask import Response, request

from mirror.errors import InvalidTag
from mirror.oci.digest import Digest
from mirror.oci.local_image import LocalImage
from mirror.oci.reference import is_tag
from service.core import service
from service.http.preconditions import etag


class TagNeverHeld(InvalidTag):
    """Nothing can be held under a malformed tag, so it is not found ("Pulling manifests" of the distribution spec)."""

    status = 404


def manifest(repositories: Sequence[str], reference: str) -> Response:
    """Serve the manifest of a tag or a digest. ``Accept`` is ignored: a conversion would change the digest.

    Raises TagNeverHeld, InvalidDigest or ImageNotHeld.
    """
    pulls = service().pulls
    repository, digest = _find(repositories, reference)
    headers = {"Docker-Content-Digest": str(digest), "ETag": etag(digest)}
    if request.if_none_match.contains_weak(str(digest)):
        return Response(status=304, headers=headers)
    name = LocalImage(repository, digest=digest)
    if request.method == "HEAD":
        described = pulls.described(name, digest)
        headers["Content-Length"] = str(described.size)
        return Response(headers=headers, content_type=described.media_type)
    described, body = pulls.content(name, digest)
    headers["Content-Length"] = str(described.size)
    return Response(body, headers=headers, content_type=described.media_type)


def _find(repositories: Sequence[str], reference: str) -> tuple[str, Digest]:
    """Return the repository that has the manifest, and the manifest's digest."""
    if ":" in reference:
        digest = Digest.parse(reference)
        return service().pulls.repository_of_manifest(repositories, digest), digest
    if not is_tag(reference):
        raise TagNeverHeld(reference)
    return service().pulls.tagged(repositories, reference)
