"""Complete the entries of a list of referrers from their manifests.

Some registries list no artifact type, and GHCR lists that of the empty config. The mirror completes what it lists by
itself (mirror/catalog/referrers.py). But a list may have been copied as it is, or come from another tool.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from threading import Lock
from time import monotonic
from typing import Any, Final

from cachetools import LRUCache

from mirror.errors import ImageNotHeld, StorageDamaged
from mirror.oci.descriptor import Descriptor
from mirror.oci.digest import Digest
from mirror.oci.image import ManifestContent
from mirror.oci.local_image import LocalImage
from mirror.oci.manifest import parse_manifest
from mirror.oci.referrer import EMPTY_TYPE, described
from service.http.connections import in_thread
from service.v2.pulls import Pulls

ARTIFACT_TYPE: Final = "artifactType"
MOST_READ: Final = 100
"""Manifests that one request reads at most."""
READ_SECONDS: Final = 5.0
"""Seconds after which a request begins no other read. Its client has waited long enough."""
_LARGEST: Final = 8 * 2**20
"""Bytes of completed entries that one process remembers, as JSON."""
_LARGE: Final = 128 * 1024
"""Bytes of a manifest that takes more than about 5 ms to parse."""

Entry = dict[str, Any]


@dataclass(frozen=True, slots=True)
class _Known:
    """What a manifest tells of its entry. Its *size* is that of its JSON."""

    fields: Entry
    size: int


class ReferrerEntries:
    """Completes entries, and remembers how. The content of a digest never changes. Safe to share between threads."""

    def __init__(self, pulls: Pulls, clock: Callable[[], float] = monotonic) -> None:
        self._pulls = pulls
        self._clock = clock
        self._known: LRUCache[tuple[str, Digest], _Known] = LRUCache(_LARGEST, getsizeof=lambda known: known.size)
        self._lock = Lock()

    def completed(self, repository: str, entries: Sequence[Entry]) -> tuple[list[Entry], bool]:
        """Return the entries, those without a type completed, and whether the type of each is known now.

        An entry also gets the annotations of its manifest if it has none. It stays as it is if *repository* does not
        hold its manifest, and where too many would have to be read. A later request then reads those. Raises
        StorageUnavailable or StorageRefused.
        """
        until, reads, are_typed = self._clock() + READ_SECONDS, 0, True
        found = list(entries)
        for place, entry in enumerate(entries):
            if entry.get(ARTIFACT_TYPE) not in (None, "", EMPTY_TYPE):
                continue
            key = repository, Digest.parse(entry["digest"])
            with self._lock:
                known = self._known.get(key)
            if known is None and reads < MOST_READ and self._clock() < until:
                reads += 1
                known = self._read(*key)
            if known is None:
                are_typed = False
                continue
            given = {"annotations": entry["annotations"]} if entry.get("annotations") else {}
            found[place] = {**entry, **known.fields, **given}
        return found, are_typed

    def _read(self, repository: str, digest: Digest) -> _Known | None:
        try:
            self._pulls.repository_of_manifest([repository], digest)
            _, body = self._pulls.content(LocalImage(repository, digest=digest), digest)
        except (ImageNotHeld, StorageDamaged):
            return None
        read = _fields if len(body.content) < _LARGE else in_thread(_fields)
        known = read(body.content, digest)
        if known.size <= _LARGEST:
            with self._lock:
                self._known[repository, digest] = known
        return known


def _fields(content: bytes, digest: Digest) -> _Known:
    parsed = parse_manifest(content, None, what=str(digest))
    descriptor = Descriptor(parsed.media_type, digest, len(content))
    entry = described(ManifestContent(descriptor, content, parsed)).entry()
    fields: Entry = {name: entry[name] for name in (ARTIFACT_TYPE, "annotations") if name in entry}
    return _Known(fields, len(json.dumps(fields)))
