"""The lists of referrers: for each subject an index under its fallback tag ("Referrers Tag Schema").

The mirror's own ``/v2`` serves referrers from these lists, and so does any registry on the bucket. A list has only the
descriptors of its referrers. Their manifests are held without a tag of their own, as the children of an index are. So
the garbage collector must mark from a list to its entries, as from any index, and from each entry to its blobs. It must
do so even if no tag shows the subject any more.

Two jobs may add to one list at the same time, on two machines, for these reasons:

- A list is read, extended and committed under the lease of its tag. So a writer always extends the last list.
- A writer that lost the lease commits nothing (tag_change.py).
- Numbers of changes decide nothing here. Of two images a tag can show only one, so `Publisher` compares their numbers.
  But an extended list has all that the list before had, so after any order of two writers both entries are listed.
- A writer takes its number under the lease. So it has the highest, and a copy of the tag that began before is
  superseded. It cannot replace the new list by an older one of its source.
- Only statements of the mirror itself are ever withdrawn, also under the lease.
- Whatever dies leaves the old list or the new one, since the commit is one PUT. The next call adds what is missing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Final, TypeVar

from mirror.catalog.publish import Publisher
from mirror.catalog.reader import CatalogReader, checked_manifest
from mirror.catalog.relist import Relister
from mirror.catalog.tag_change import TagChanges
from mirror.errors import ContentError, ImageNotHeld, ReferrersTagTaken, StorageDamaged, TooManyReferrers
from mirror.locks.lease import Lease
from mirror.oci import media_types
from mirror.oci.digest import Digest
from mirror.oci.image import Image, ManifestContent
from mirror.oci.local_image import LocalImage
from mirror.oci.manifest import MAX_ENTRIES, MAX_MANIFEST_SIZE, Index
from mirror.oci.referrer import Referrer, completed, extend_list, fallback_tag, read_list, shorten_list, write_list
from mirror.records.fields import at, timestamp
from mirror.redis.client import Redis
from mirror.storage.blobs import BlobStore
from mirror.storage.provenance import ImageProvenance, ImageSummary, ProvenanceStore

_READERS: Final = 16
_Item = TypeVar("_Item")
_Result = TypeVar("_Result")
MAX_DEPTH: Final = 3
"""Levels of referrers: of an image, of its referrers, and of those."""
MAX_REFERRERS: Final = 1_000
"""Referrers of one image, with those of its children and of its referrers."""


@dataclass(frozen=True, slots=True)
class _Addition:
    """A new entry of a list, and the bytes of all that its referrer needs in the bucket."""

    entry: Referrer
    sizes: dict[Digest, int]


class ReferrerLists:
    """Reads and extends lists of referrers. Safe to share between threads.

    Every method raises StorageUnavailable, StorageRefused or RedisUnavailable, and StorageDamaged if a list is lost.
    """

    def __init__(
        self,
        changes: TagChanges,
        publisher: Publisher,
        reader: CatalogReader,
        relister: Relister,
        *,
        blobs: BlobStore,
        provenance: ProvenanceStore,
        redis: Redis,
    ) -> None:
        self._changes = changes
        self._publisher = publisher
        self._reader = reader
        self._relister = relister
        self._blobs = blobs
        self._provenance = provenance
        self._redis = redis

    def listed(self, repository: str, subject: Digest) -> tuple[Referrer, ...]:
        """Return the referrers of *subject* in their order. An image under the fallback tag lists none."""
        target = LocalImage(repository, fallback_tag(subject))
        found = self._content(target, self._changes.last_known(target))
        return read_list(found.body, what=str(target)) if found and _is_list(found) else ()

    def add(self, repository: str, subject: Digest, referrers: Sequence[Referrer], *, by: str) -> int:
        """List *referrers* at the end of the list of *subject*, and return how many of them are new.

        Their manifests are readable by digest in *repository*, and pinned. What the list has already stays as it is.
        An entry without an artifact type or annotations gets those of its manifest. *by* is recorded as the job.

        Where nothing is new, nothing is written: that costs a request to Redis, and one to S3. Raises ImageNotHeld for
        a manifest that is not readable, ReferrersTagTaken, TooManyReferrers or TagBusy.
        """
        target = LocalImage(repository, fallback_tag(subject))
        before = self._content(target, self._changes.last_known(target))
        missing = _missing(target, before, referrers)
        if not missing:
            if before:  # a writer may have died between its commit and the index
                self._relister.relist_unless_listed(target, before.descriptor.digest)
            return 0
        additions, sizes = self._additions(repository, missing), self._sizes(repository, before, {})
        with self._changes.lock(target) as lease:
            shown = self._changes.current(target)
            current = before
            if shown != (before and before.descriptor.digest):
                current = self._content(target, shown)
                sizes = self._sizes(repository, current, sizes)
            missing = _missing(target, current, referrers)
            additions |= self._additions(repository, [one for one in missing if one.digest not in additions])
            if missing:
                self._commit(target, lease, current, [additions[one.digest] for one in missing], sizes, by)
            elif current:
                self._relister.relist_locked(target, shown)
        return len(missing)

    def withdraw(self, repository: str, subject: Digest, referrers: Collection[Digest], *, by: str) -> int:
        """Remove *referrers* from the list of *subject*, and return how many it had. Their manifests stay.

        Only what the mirror itself has made may be withdrawn. *by* is recorded as the job. Raises TagBusy.
        """
        target = LocalImage(repository, fallback_tag(subject))
        with self._changes.lock(target) as lease:
            current = self._content(target, self._changes.current(target))
            entries = current.parsed.manifests if current and isinstance(current.parsed, Index) else ()
            found = {entry.digest for entry in entries}.intersection(referrers)
            if current is None or not found:
                return 0
            body = shorten_list(current.body, found)
            needed = {Digest.of(body): len(body)}
            left = [entry.digest for entry in entries if entry.digest not in found]
            for sizes in _in_parallel(partial(self._held_sizes, repository), left):
                needed |= sizes
            self._publish(target, lease, checked_manifest(body, Digest.of(body)), needed, by)
            return len(found)

    def _commit(
        self,
        target: LocalImage,
        lease: Lease,
        current: ManifestContent | None,
        additions: Sequence[_Addition],
        sizes: Mapping[Digest, int],
        by: str,
    ) -> None:
        """Write the list with its additions and point its tag at it. The caller holds *lease*."""
        content = _extended(target, current, [addition.entry for addition in additions])
        needed = {**sizes, content.descriptor.digest: content.descriptor.size}
        for addition in additions:
            needed |= addition.sizes
        self._publish(target, lease, content, needed, by)

    def _publish(
        self, target: LocalImage, lease: Lease, content: ManifestContent, needed: Mapping[Digest, int], by: str
    ) -> None:
        """Point the tag at the list *content*, which needs the bytes of *needed*. The caller holds *lease*."""
        summary = ImageSummary(content.parsed.media_type, (), needed)
        origin = ImageProvenance("", content.descriptor.digest, timestamp(at(self._redis.now())), by)
        [change] = self._changes.take_numbers([(target, by)])
        self._publisher.publish_locked(change, lease, Image((content,)), summary, origin)

    def _content(self, target: LocalImage, shown: Digest | None) -> ManifestContent | None:
        """Return what the tag shows, None if there is no such tag. Raises StorageDamaged if the bucket lost it."""
        if shown is None:
            return None
        body = self._blobs.read(shown, MAX_MANIFEST_SIZE)
        if body is None:
            raise StorageDamaged(str(shown), f"the tag '{target}' points at it, and it is absent")
        return checked_manifest(body, shown)

    def _additions(self, repository: str, referrers: Sequence[Referrer]) -> dict[Digest, _Addition]:
        """Return the entry of each referrer, and what it needs. Raises ImageNotHeld."""

        def described(referrer: Referrer) -> _Addition:
            image = self._reader.image(LocalImage(repository, digest=referrer.digest))
            return _Addition(completed(referrer, image.root), image.sizes)

        digests = [referrer.digest for referrer in referrers]
        return dict(zip(digests, _in_parallel(described, referrers), strict=True))

    def _sizes(
        self, repository: str, current: ManifestContent | None, known: Mapping[Digest, int]
    ) -> dict[Digest, int]:
        """Return the bytes of all that the entries of a list need, by its record or else by their manifests.

        *known* are bytes that need not be looked for. An entry that the repository does not hold needs nothing.
        """
        if current is None or not isinstance(current.parsed, Index):
            return {}
        digest = current.descriptor.digest
        record = self._provenance.image(repository, digest)
        found = dict(record.summary.sizes) if record and record.summary else None
        if found is None:
            found = dict(known)
            unknown = [entry.digest for entry in current.parsed.manifests if entry.digest not in known]
            for sizes in _in_parallel(partial(self._held_sizes, repository), unknown):
                found |= sizes
        found.pop(digest, None)
        return found

    def _held_sizes(self, repository: str, digest: Digest) -> dict[Digest, int]:
        try:
            return self._reader.image(LocalImage(repository, digest=digest)).sizes
        except (ImageNotHeld, StorageDamaged, ContentError):  # another tool listed it
            return {}


def _is_list(content: ManifestContent) -> bool:
    return content.parsed.media_type == media_types.OCI_INDEX


def _missing(target: LocalImage, current: ManifestContent | None, referrers: Iterable[Referrer]) -> list[Referrer]:
    """Return those that the list does not have, each digest once, in their order. Raises ReferrersTagTaken."""
    if current is None:
        listed = set()
    elif isinstance(current.parsed, Index) and _is_list(current):
        listed = {entry.digest for entry in current.parsed.manifests}
    else:
        raise ReferrersTagTaken(str(target), current.parsed.media_type)
    found: dict[Digest, Referrer] = {}
    for referrer in referrers:
        if referrer.digest not in listed:
            found.setdefault(referrer.digest, referrer)
    return list(found.values())


def _extended(target: LocalImage, current: ManifestContent | None, entries: Sequence[Referrer]) -> ManifestContent:
    """Return the list with *entries* at its end. Raises TooManyReferrers."""
    body = extend_list(current.body, entries) if current else write_list(entries)
    listed = len(json.loads(body)["manifests"])
    if len(body) > MAX_MANIFEST_SIZE or listed > MAX_ENTRIES:
        raise TooManyReferrers.in_list(str(target), listed, len(body))
    return checked_manifest(body, Digest.of(body))


def _in_parallel(read: Callable[[_Item], _Result], items: Sequence[_Item]) -> list[_Result]:
    if not items:
        return []
    with ThreadPoolExecutor(min(len(items), _READERS), thread_name_prefix="referrers") as pool:
        return list(pool.map(read, items))
