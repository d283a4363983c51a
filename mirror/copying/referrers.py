"""Find the referrers of an image at its source, at the least cost, and say whether there is anything new.

A registry lists the referrers of one subject by its API. Where it has none, an index under the subject's fallback tag
lists them. cosign 2 keeps signatures, attestations and SBOMs under tags of its own, at every registry.

Which of these tags exist is taken from the list of all tags of the repository, where the registry gives one. One list
serves all images of the repository. It is used again only if it began after the task was added to its job. So what was
pushed before the job is never missed.

A registry that fails to answer fails the look: an error is never taken for "there are none".
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

from cachetools import TTLCache

from mirror.copying.cancellation import Cancellation
from mirror.copying.memory import ManifestMemory
from mirror.copying.ports import Source
from mirror.oci.digest import Digest
from mirror.oci.manifest import Index, parse_manifest
from mirror.oci.reference import Reference
from mirror.oci.referrer import Referrer, cosign_tags, fallback_tag, read_list

_LOOKS: Final = 8
_LISTS: Final = 200
_LIST_SECONDS: Final = 60


@dataclass(frozen=True, slots=True)
class Sighting:
    """What a look at a source shows of the referrers of *subject*.

    *listed* is None if the registry has no API. *tags* are the subject's referrer tags that exist, and their digests.
    Without an API the fallback tag is among them.
    """

    subject: Digest
    listed: tuple[Referrer, ...] | None
    tags: Mapping[str, Digest]

    @property
    def lines(self) -> list[str]:
        """A line for each thing that was seen, for `ReferrersSeen`."""
        listed = [f"{self.subject} {referrer.digest}" for referrer in self.listed or ()]
        return listed + [f"{tag} {digest}" for tag, digest in self.tags.items()]

    @property
    def sboms(self) -> list[Digest]:
        """Return the SBOMs under tags of cosign. It signs them as it signs images, under a tag of their digest."""
        return [digest for tag, digest in self.tags.items() if tag.endswith(".sbom")]


class ReferrerFinder:
    """Looks for referrers at sources. Safe to share between threads. *now* returns the time of the fleet."""

    def __init__(self, source: Source, now: Callable[[], datetime]) -> None:
        self._source = source
        self.now = now
        self._lists: TTLCache[tuple[str, str], _TagList] = TTLCache(_LISTS, _LIST_SECONDS)
        self._lock = threading.Lock()

    def look(self, reference: Reference, subject: Digest, since: datetime) -> Sighting:
        """Look for the referrers of *subject* in the repository of *reference*. Reads no manifest.

        A list of tags that began after *since* may be used again. Raises what the source raises.
        """
        listed = self._source.referrers(replace(reference, tag=None, digest=subject))
        wanted = cosign_tags(subject) if listed is not None else (fallback_tag(subject), *cosign_tags(subject))
        existing = self._tags(reference, since)
        candidates = [tag for tag in wanted if existing is None or tag in existing]
        found = ((tag, self._source.tag_digest(replace(reference, tag=tag, digest=None))) for tag in candidates)
        return Sighting(subject, listed, {tag: digest for tag, digest in found if digest})

    def first(self, reference: Reference, digest: Digest, since: datetime, *, is_rewritten: bool) -> Sighting:
        """As `look`, for an image itself. Its source has no referrers of an index that *is_rewritten* by the mirror."""
        return Sighting(digest, None, {}) if is_rewritten else self.look(reference, digest, since)

    def entries(self, reference: Reference, sighting: Sighting, memory: ManifestMemory) -> tuple[Referrer, ...]:
        """Return the referrers of a sighting. Without an API the index of the fallback tag is read.

        An image under that tag lists nothing. Raises ManifestInvalid for a damaged list, and what the source raises.
        """
        if sighting.listed is not None:
            return sighting.listed
        digest = sighting.tags.get(fallback_tag(sighting.subject))
        if digest is None:
            return ()
        named = replace(reference, tag=None, digest=digest)
        with self._source.reading(named) as manifests:
            body = manifests.get(named).body
        memory.hold(len(body))
        what = f"{reference.registry}/{reference.repository}:{fallback_tag(sighting.subject)}"
        return read_list(body, what=what) if isinstance(parse_manifest(body, None, what=what), Index) else ()

    def look_at_all(
        self, reference: Reference, subjects: Sequence[Digest], since: datetime, cancellation: Cancellation
    ) -> list[Sighting]:
        """Look for the referrers of several subjects, in their order."""

        def look(subject: Digest) -> Sighting:
            cancellation.check()
            return self.look(reference, subject, since)

        if len(subjects) == 1:
            return [look(subjects[0])]
        pool = ThreadPoolExecutor(min(len(subjects), _LOOKS) or 1, "referrers", initializer=cancellation.bind_thread)
        try:
            return list(pool.map(look, subjects))
        finally:
            pool.shutdown(cancel_futures=True)

    def _tags(self, reference: Reference, since: datetime) -> frozenset[str] | None:
        """Return the referrer tags of the repository, None if its registry lists no tags."""
        with self._lock:
            key = (reference.registry, reference.repository)
            found = self._lists.get(key)
            if found is None:
                found = self._lists[key] = _TagList()
        return found.names(since, self.now, lambda: self._source.referrer_tags(reference))


class _TagList:
    """The referrer tags of one repository, as one list of its tags showed them. One thread lists, and others wait."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._began_at: datetime | None = None
        self._names: frozenset[str] | None = None

    def names(
        self, since: datetime, now: Callable[[], datetime], fetch: Callable[[], frozenset[str] | None]
    ) -> frozenset[str] | None:
        with self._lock:
            if self._began_at is None or self._began_at < since:
                began_at = now()
                self._names = fetch()
                self._began_at = began_at
            return self._names
