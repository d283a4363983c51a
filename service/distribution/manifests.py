"""Manifests and indexes, byte for byte as they were mirrored."""

from __future__ import annotations

from flask import Response, request

from mirror.errors import InvalidTag
from mirror.oci.digest import Digest
from mirror.oci.local_image import LocalImage
from mirror.oci.names import is_tag
from service.preconditions import etag
from service.services import services


def manifest(repository: str, reference: str) -> Response:
    """The manifest that a tag shows or a digest names, whatever ``Accept`` says: a conversion would change its digest.

    Raises InvalidTag, InvalidDigest or ImageNotHeld.
    """
    content = services().reader.manifest(_name(repository, reference))
    digest = str(content.descriptor.digest)
    headers = {"Docker-Content-Digest": digest, "ETag": etag(digest)}
    if request.if_none_match.contains_weak(digest):
        return Response(status=304, headers=headers)
    return Response(content.body, headers=headers, content_type=content.descriptor.media_type)


def _name(repository: str, reference: str) -> LocalImage:
    if ":" in reference:
        return LocalImage(repository, digest=Digest.parse(reference))
    if not is_tag(reference):
        raise InvalidTag(reference)
    return LocalImage(repository, reference)
