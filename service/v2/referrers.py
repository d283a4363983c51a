"""List the referrers of a manifest, such as its signatures ("Listing Referrers" of the distribution spec).

They are what the repository has under the subject's fallback tag ("Referrers Tag Schema"). A client that gets 200 here
does not look at that tag.

A client reads a short list as "there is no signature". So a failure of S3 or Redis is never an empty list, and a page
has all that a client may read at once: go-containerregistry, and so cosign, reads one page only (its issue 2446).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from flask import Response, request, url_for

from mirror.errors import ImageNotHeld, StorageDamaged
from mirror.oci import media_types
from mirror.oci.digest import Digest
from mirror.oci.local_image import LocalImage
from mirror.oci.manifest import MAX_ENTRIES, MAX_MANIFEST_SIZE
from mirror.oci.referrer import fallback_tag
from service.core import service
from service.http.bodies import require_single
from service.http.connections import in_thread
from service.http.problems import PageSizeInvalid
from service.v2.referrer_entries import ARTIFACT_TYPE, Entry

_LARGE: Final = 128 * 1024
"""Bytes of an index that takes more than about 5 ms to parse."""


class EmptyPageRefused(PageSizeInvalid):
    """A client asks for pages without entries. It would read the first one as "nothing refers to the image"."""

    hint = "Give a positive number, or leave 'n' out."


@dataclass(frozen=True, slots=True)
class Page:
    """The index that one request returns. *last* is its last entry, None if no other page follows."""

    body: bytes
    last: str | None


def referrers(repositories: Sequence[str], path: str, digest_text: str, size: int | None) -> Response:
    """Serve an index of the manifests that refer to a digest. It is empty for an unknown digest.

    Entries are not filtered if the type of one is not known: that may be the signature that the client looks for. A
    client filters by itself if it is not told of a filter.

    *path* is that of the request below ``/v2/``. *size* is how many entries the client asks for, None for all. Raises
    InvalidDigest, PageSizeInvalid, ParametersRepeated, StorageDamaged or StorageUnavailable.
    """
    require_single(request, [ARTIFACT_TYPE])
    subject, after = Digest.parse(digest_text), request.args.get("last") or None
    if after is not None:
        Digest.parse(after)
    if size == 0:
        raise EmptyPageRefused("0")
    repository, index = _fallback_index(repositories, subject)
    is_large = len(index) >= _LARGE
    listed = (in_thread(_entries) if is_large else _entries)(index)
    entries, are_typed = service().referrer_entries.completed(repository, listed)
    wanted = request.args.get(ARTIFACT_TYPE) or None
    build = in_thread(make_page) if is_large else make_page
    page = build(entries, wanted if are_typed else None, after=after, size=size or MAX_ENTRIES)
    response = Response(page.body, content_type=media_types.OCI_INDEX)
    if wanted and are_typed:
        response.headers["OCI-Filters-Applied"] = ARTIFACT_TYPE
    if page.last is not None:
        query: Entry = {"n": size, "last": page.last, ARTIFACT_TYPE: wanted, "ns": request.args.get("ns") or None}
        response.headers["Link"] = f'<{url_for("distribution.read", path=path, **query)}>; rel="next"'
    return response


def make_page(entries: Sequence[Entry], wanted: str | None, *, after: str | None, size: int) -> Page:
    """Return at most *size* entries, and at most 4 MiB of them: those of the type *wanted*, None for all. No I/O.

    It begins after the entry with the digest *after*. A list grows at its end only, so that entry is at the same place,
    whatever was added or is filtered. If it is gone, the list is a new one, and is read from its beginning.
    """
    digests = [entry["digest"] for entry in entries]
    rest = entries[digests.index(after) + 1 :] if after in digests else entries
    if wanted is not None:
        rest = [entry for entry in rest if entry.get(ARTIFACT_TYPE) == wanted]
    found: list[str] = []
    room = MAX_MANIFEST_SIZE - len(_document([]))
    for entry in rest:
        text = json.dumps(entry, separators=(",", ":"))
        room -= len(text) + 1
        if len(found) == size or (found and room < 0):
            break
        found.append(text)
    last = rest[len(found) - 1]["digest"] if len(found) < len(rest) else None
    return Page(_document(found), last)


def _document(entries: Sequence[str]) -> bytes:
    return f'{{"schemaVersion":2,"mediaType":"{media_types.OCI_INDEX}","manifests":[{",".join(entries)}]}}'.encode()


def _entries(index: bytes) -> list[Entry]:
    """Return the entries of an index, each digest once. No I/O."""
    found: dict[str, Entry] = {}
    for entry in (json.loads(index)["manifests"] or []) if index else []:
        found.setdefault(entry["digest"], entry)
    return list(found.values())


def _fallback_index(repositories: Sequence[str], subject: Digest) -> tuple[str, bytes]:
    """Return the index under the fallback tag and its repository, nothing if there is none.

    Anything but an index lists no referrers. An entry that the repository does not hold stays in it. The client then
    fails to fetch it. Without the entry, the client would take the image for unsigned.
    """
    pulls = service().pulls
    try:
        repository, digest = pulls.shown(repositories, fallback_tag(subject))
    except ImageNotHeld:
        return repositories[0], b""
    try:
        pulls.repository_of_manifest([repository], digest)
        described, body = pulls.content(LocalImage(repository, digest=digest), digest)
    except ImageNotHeld:
        raise StorageDamaged(str(digest), "a tag points at it, and it is absent") from None
    return repository, body.content if described.media_type in media_types.INDEXES else b""
