"""List the referrers of a manifest, such as its signatures ("Listing Referrers" of the distribution spec).

They are what the repository has under the subject's fallback tag ("Referrers Tag Schema"). A client that gets 200 here
does not look at that tag.

A client reads a short list as "there is no signature". So a failure of S3 or Redis is never an empty list.
"""

from __future__ import annotations

import json
from typing import Any, Final

from flask import Response, request

from mirror.errors import ImageNotHeld, StorageDamaged
from mirror.oci import media_types
from mirror.oci.digest import Digest
from mirror.oci.local_image import LocalImage
from mirror.oci.manifest import Index
from service.core import core
from service.http.bodies import require_single

_FILTER: Final = "artifactType"
_LONGEST_HEX: Final = 64
"""Characters of a digest in a fallback tag. A longer digest is cut."""


def referrers(repository: str, digest_text: str) -> Response:
    """Serve an index of the manifests that refer to a digest. It is empty for an unknown digest.

    Raises InvalidDigest, ParametersRepeated, StorageDamaged or StorageUnavailable.
    """
    require_single(request, [_FILTER])
    found = _listed(repository, Digest.parse(digest_text))
    headers: dict[str, str] = {}
    wanted = request.args.get(_FILTER)
    if wanted and all(entry.get(_FILTER) for entry in found):
        found = [entry for entry in found if entry[_FILTER] == wanted]
        headers["OCI-Filters-Applied"] = _FILTER
    index = {"schemaVersion": 2, "mediaType": media_types.OCI_INDEX, "manifests": found}
    return Response(json.dumps(index), headers=headers, content_type=media_types.OCI_INDEX)


def fallback_tag(subject: Digest) -> str:
    """Return the tag under which a client lists referrers at a registry without this API."""
    return f"{subject.algorithm}-{subject.hex[:_LONGEST_HEX]}"


def _listed(repository: str, subject: Digest) -> list[dict[str, Any]]:
    """Return the entries of the index under the fallback tag. Something else than an index lists none.

    An entry that the repository does not hold is returned too. The client then fails to fetch it. Without the entry,
    the client would take the image for unsigned.
    """
    reader = core().reader
    try:
        digest = reader.digest(LocalImage(repository, fallback_tag(subject)))
    except ImageNotHeld:
        return []
    try:
        content = reader.manifest(LocalImage(repository, digest=digest))
    except ImageNotHeld:
        raise StorageDamaged(str(digest), "a tag points at it, and it is absent") from None
    if not isinstance(content.parsed, Index):
        return []
    entries: list[dict[str, Any]] = json.loads(content.body)["manifests"] or []
    return entries
