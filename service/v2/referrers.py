"""List the referrers of a manifest, such as its signatures ("Listing Referrers" of the distribution spec).

They are what the repository has under the subject's fallback tag ("Referrers Tag Schema"). A client that gets 200 here
does not look at that tag.

A client reads a short list as "there is no signature". So a failure of S3 or Redis is never an empty list.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final

from flask import Response, request

from mirror.errors import ImageNotHeld, StorageDamaged
from mirror.oci import media_types
from mirror.oci.digest import Digest
from mirror.oci.local_image import LocalImage
from mirror.oci.referrer import fallback_tag
from service.core import service
from service.http.bodies import require_single
from service.http.connections import in_thread

FILTER: Final = "artifactType"
_LARGE: Final = 128 * 1024
"""Bytes of an index that takes more than about 5 ms to parse."""


def referrers(repositories: Sequence[str], digest_text: str) -> Response:
    """Serve an index of the manifests that refer to a digest. It is empty for an unknown digest.

    Raises InvalidDigest, ParametersRepeated, StorageDamaged or StorageUnavailable.
    """
    require_single(request, [FILTER])
    listed = _fallback_index(repositories, Digest.parse(digest_text))
    build = listing if len(listed) < _LARGE else in_thread(listing)
    body, is_filtered = build(listed, request.args.get(FILTER))
    headers = {"OCI-Filters-Applied": FILTER} if is_filtered else {}
    return Response(body, headers=headers, content_type=media_types.OCI_INDEX)


def listing(index: bytes, artifact_type: str | None) -> tuple[bytes, bool]:
    """Return the index of referrers, and whether only those of *artifact_type* are in it. No I/O.

    It is not filtered if the type of an entry is not known: that may be the signature that the client looks for. A
    client filters by itself if it is not told of a filter.
    """
    entries: list[dict[str, Any]] = (json.loads(index)["manifests"] or []) if index else []
    is_filtered = bool(artifact_type) and all(entry.get(FILTER) for entry in entries)
    if is_filtered:
        entries = [entry for entry in entries if entry[FILTER] == artifact_type]
    document = {"schemaVersion": 2, "mediaType": media_types.OCI_INDEX, "manifests": entries}
    return json.dumps(document).encode(), is_filtered


def _fallback_index(repositories: Sequence[str], subject: Digest) -> bytes:
    """Return the index under the fallback tag, nothing if there is none. Anything but an index lists no referrers.

    An entry that the repository does not hold stays in it. The client then fails to fetch it. Without the entry, the
    client would take the image for unsigned.
    """
    pulls = service().pulls
    try:
        repository, digest = pulls.shown(repositories, fallback_tag(subject))
    except ImageNotHeld:
        return b""
    try:
        pulls.repository_of_manifest([repository], digest)
        described, body = pulls.content(LocalImage(repository, digest=digest), digest)
    except ImageNotHeld:
        raise StorageDamaged(str(digest), "a tag points at it, and it is absent") from None
    return body.content if described.media_type in media_types.INDEXES else b""
