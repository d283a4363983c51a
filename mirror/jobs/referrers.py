"""Mirror the referrers of an image: its signatures, its SBOMs, and whatever else refers to it.

Their content is copied first, while the image is. They become readable right before the tag of the image moves. So no
reader sees an image without the signature that it has at its source.

A referrer becomes readable by its digest, and is then listed under the fallback tag of its subject, in the repository
of the image. Lists are merged, so two jobs may do that at once. Tags of cosign are published like any other tag.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import chain
from typing import Final, Literal

import structlog

from mirror.catalog.publish import Publisher
from mirror.catalog.reader import CatalogReader
from mirror.catalog.referrers import MAX_DEPTH, MAX_REFERRERS, ReferrerLists
from mirror.catalog.tag_change import TagChange, TagChanges
from mirror.copying.copier import Copier
from mirror.copying.memory import ManifestMemory
from mirror.copying.ports import BlobState, PlannedBlob, Progress
from mirror.copying.referrers import ReferrerFinder, Sighting
from mirror.copying.resolver import Resolver
from mirror.errors import ManifestUnknown, MediaTypeUnsupported, TooManyReferrers
from mirror.jobs.claim import ClaimedCopy
from mirror.oci.digest import Digest
from mirror.oci.image import Image, ManifestContent
from mirror.oci.local_image import LocalImage
from mirror.oci.manifest import Index
from mirror.oci.reference import Reference
from mirror.oci.referrer import Referrer, ReferrersSeen, described, fallback_tag, hash_of
from mirror.records.fields import timestamp
from mirror.records.rules import ReferrerRules
from mirror.records.task import ReferrerCounts
from mirror.storage.provenance import ImageProvenance

_THREADS: Final = 4
_NotCopied = Literal["unwanted", "left out"]
_LOG = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Copied:
    """A referrer whose content the bucket holds. Nothing of it can be read yet.

    *referrer* is how it is listed under *subject*. Of a tag of cosign, *change* is the change of that tag.
    """

    subject: Digest
    referrer: Referrer
    image: Image
    origin: ImageProvenance
    change: TagChange | None = None


@dataclass(frozen=True, slots=True)
class FetchedReferrers:
    """The referrers of an image, before they are published: *copied* ones, and how many are *unchanged*.

    *own* are children of the image that are listed as its referrers, too. *seen* is for the next job.
    """

    copied: Sequence[_Copied]
    own: Sequence[tuple[Digest, Referrer]]
    unchanged: int
    left_out: int
    seen: ReferrersSeen

    @property
    def counts(self) -> ReferrerCounts:
        return ReferrerCounts(len(self.copied), self.unchanged + len(self.own), self.left_out)


@dataclass(slots=True)
class _Walk:
    """What was found so far below one image. *manifests* are those of the image itself."""

    rules: ReferrerRules
    manifests: dict[Digest, ManifestContent]
    sightings: list[Sighting] = field(default_factory=list)
    wanted: list[tuple[Digest, Referrer]] = field(default_factory=list)
    own: list[tuple[Digest, Referrer]] = field(default_factory=list)
    tags: list[tuple[Digest, str, Digest]] = field(default_factory=list)
    held: int = 0
    count: int = 0


@dataclass(frozen=True, slots=True)
class ReferrerCopier:
    """Copies the referrers of images that are being mirrored. Safe to share between threads."""

    finder: ReferrerFinder
    resolver: Resolver
    copier: Copier
    publisher: Publisher
    reader: CatalogReader
    changes: TagChanges
    lists: ReferrerLists

    def fetch(
        self, task: ClaimedCopy, image: Image, memory: ManifestMemory, *, is_rewritten: bool = False
    ) -> FetchedReferrers:
        """Copy the content of all referrers of *image* that the mirror does not list. Nothing can be read yet.

        The index of an image that *is_rewritten* was made here, so its source knows no referrers of it. Raises
        TooManyReferrers, and what copying an image raises.
        """
        reference, since = task.spec.source, task.claim.task.created_at
        walk = _Walk(task.spec.options.referrers, {one.descriptor.digest: one for one in image.manifests})
        level, depth = [digest for digest in walk.manifests if digest != image.digest], 0
        first = self.finder.first(reference, image.digest, since, is_rewritten=is_rewritten)
        sightings = [first, *self.finder.look_at_all(reference, level, since, task.cancellation)]
        while sightings:
            depth += 1
            walk.sightings += sightings
            for one in sightings:
                self._take_tags(task, walk, one)
            below = [digest for one in sightings for digest in self._take_listed(task, walk, one, memory)]
            below += [digest for one in sightings for digest in one.sboms]
            below = list(dict.fromkeys(below)) if depth < MAX_DEPTH else []
            sightings = self.finder.look_at_all(reference, below, since, task.cancellation)
        results = self._copied(task, walk, memory)
        copied = [one for one in results if isinstance(one, _Copied)]
        seen = _seen(walk.rules.key, walk.sightings, walk.count, since)
        return FetchedReferrers(copied, walk.own, walk.held, results.count("left out"), seen)

    def publish(self, task: ClaimedCopy, fetched: FetchedReferrers) -> ReferrerCounts:
        """Make the referrers readable, and list them. Those of a referrer come before the referrer itself."""
        repository, job = task.change.target.repository, task.claim.task.job
        listed: dict[Digest, list[Referrer]] = {}
        for one in reversed(fetched.copied):
            task.cancellation.check()
            if one.change:
                self.publisher.publish(one.change, one.image, one.origin)
                continue
            self.publisher.stage(LocalImage(repository, fallback_tag(one.subject)), one.image, one.origin)
            listed.setdefault(one.subject, []).append(one.referrer)
        for subject, referrer in fetched.own:
            listed.setdefault(subject, []).append(referrer)
        for subject, referrers in listed.items():
            self.lists.add(repository, subject, referrers, by=job)
        return fetched.counts

    def refresh(self, task: ClaimedCopy, shown: Digest, memory: ManifestMemory) -> FetchedReferrers:
        """As `fetch`, for an image that the target shows already: *shown*. If nothing is new, no manifest is read."""
        image = self.reader.image(LocalImage(task.change.target.repository, digest=shown))
        seen = task.held.referrers if task.held else None
        is_rewritten = task.held is not None and task.held.is_rewritten
        if seen and seen.rules == task.spec.options.referrers.key:
            since = task.claim.task.created_at
            first = self.finder.first(task.spec.source, shown, since, is_rewritten=is_rewritten)
            below = self._below(task, image)
            rest = self.finder.look_at_all(task.spec.source, below, since, task.cancellation)
            sboms = [digest for one in (first, *rest) for digest in one.sboms if digest not in below]
            rest += self.finder.look_at_all(task.spec.source, list(dict.fromkeys(sboms)), since, task.cancellation)
            now = _seen(seen.rules, [first, *rest], seen.count, since)
            if (now.first, now.rest) == (seen.first, seen.rest):
                return FetchedReferrers((), (), seen.count, 0, now)
        return self.fetch(task, image, memory, is_rewritten=is_rewritten)

    def _below(self, task: ClaimedCopy, image: Image) -> list[Digest]:
        """Return the children of an image that is held, and all referrers that the mirror lists below it."""
        repository = task.change.target.repository
        level = [one.descriptor.digest for one in image.manifests]
        found = dict.fromkeys(level)
        for _ in range(MAX_DEPTH - 1):
            listed = [one.digest for subject in level for one in self.lists.listed(repository, subject)]
            level = [digest for digest in dict.fromkeys(listed) if digest not in found]
            found |= dict.fromkeys(level)
        return [digest for digest in found if digest != image.digest]

    def _take_listed(
        self, task: ClaimedCopy, walk: _Walk, sighting: Sighting, memory: ManifestMemory
    ) -> Iterator[Digest]:
        """Add the listed referrers to the walk. Yield those that may have referrers of their own."""
        repository, subject = task.change.target.repository, sighting.subject
        entries = self.finder.entries(task.spec.source, sighting, memory)
        listed = {one.digest for one in self.lists.listed(repository, subject)} if entries else set()
        for referrer in entries:
            if referrer.is_typed and not walk.rules.include(referrer.artifact_type):
                continue
            self._count(walk, task.spec.source)
            if referrer.digest in listed:
                walk.held += 1
            elif (own := walk.manifests.get(referrer.digest)) is not None:
                walk.own.append((subject, described(own)))
            else:
                walk.wanted.append((subject, referrer))
            if referrer.digest not in walk.manifests:
                yield referrer.digest

    def _take_tags(self, task: ClaimedCopy, walk: _Walk, sighting: Sighting) -> None:
        """Add the tags of cosign that a sighting shows to the walk."""
        for tag, digest in sighting.tags.items():
            if tag == fallback_tag(sighting.subject):
                continue
            self._count(walk, task.spec.source)
            if self.changes.current(LocalImage(task.change.target.repository, tag)) == digest:
                walk.held += 1
            else:
                walk.tags.append((sighting.subject, tag, digest))

    def _count(self, walk: _Walk, reference: Reference) -> None:
        walk.count += 1
        if walk.count > MAX_REFERRERS:
            raise TooManyReferrers.of_image(str(reference), MAX_REFERRERS)

    def _copied(self, task: ClaimedCopy, walk: _Walk, memory: ManifestMemory) -> list[_Copied | _NotCopied]:
        """Copy what is wanted, several at a time."""
        repository = task.change.target.repository
        tags = [(LocalImage(repository, tag), task.claim.task.job) for _, tag, _ in walk.tags]
        changes = self.changes.take_numbers(tags) if tags else []

        def listed(one: tuple[Digest, Referrer]) -> _Copied | _NotCopied:
            subject, referrer = one
            reference = replace(task.spec.source, tag=None, digest=referrer.digest)
            return self._copy(task, walk.rules, reference, subject, memory)

        def tagged(one: tuple[tuple[Digest, str, Digest], TagChange]) -> _Copied | _NotCopied:
            (subject, tag, _), change = one
            copied = self._copy(task, walk.rules, replace(task.spec.source, tag=tag, digest=None), subject, memory)
            return replace(copied, change=change) if isinstance(copied, _Copied) else copied

        pool = ThreadPoolExecutor(_THREADS, "referrers", initializer=task.cancellation.bind_thread)
        try:
            tagged_ones = pool.map(tagged, zip(walk.tags, changes, strict=True))
            return [*pool.map(listed, walk.wanted), *tagged_ones]
        finally:
            pool.shutdown(cancel_futures=True)

    def _copy(
        self, task: ClaimedCopy, rules: ReferrerRules, reference: Reference, subject: Digest, memory: ManifestMemory
    ) -> _Copied | _NotCopied:
        """Copy one referrer. It is left out if it is of another subject, or of a kind that cannot be mirrored."""
        task.cancellation.check()
        try:
            hint = self.resolver.digest(reference)
            with self.resolver.resolving(reference, hint, task.cancellation, memory) as resolution:
                root = resolution.root
                if reference.digest and root.parsed.subject and root.parsed.subject.digest != subject:
                    return _left_out(reference, f"it refers to {root.parsed.subject.digest}")
                if not rules.include(*_types(root)):
                    return "unwanted"
                image = resolution.image()
        except MediaTypeUnsupported as error:
            return _left_out(reference, error.message)
        except ManifestUnknown as error:
            if error.is_child:
                raise
            return _left_out(reference, error.message)
        copied = self.copier.copy(
            reference,
            image,
            foreign_layers=task.spec.options.foreign_layers,
            holder=task.heartbeat.holder,
            progress=_Unshown(task.heartbeat.progress),
            cancellation=task.cancellation,
        )
        moment = timestamp(self.finder.now())
        origin = ImageProvenance(str(reference), image.digest, moment, task.claim.task.job, copied.held)
        return _Copied(subject, described(root), image.leaving_out(copied.left_out), origin)


class _Unshown(Progress):
    """The progress of a referrer's blobs. The task shows only those of its image, but lives as long as these move."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def resolved(self, digest: Digest) -> None:
        """Shows nothing."""

    def planned(self, blobs: Sequence[PlannedBlob]) -> None:
        """Shows nothing."""

    def advanced(self, digest: Digest, state: BlobState, copied: int = 0) -> None:
        """Shows nothing."""

    def stopped(self, digest: Digest, state: BlobState, reason: str, code: str | None = None) -> None:
        """Shows nothing."""

    def checkpointed(self, digest: Digest) -> None:
        self._progress.checkpointed(digest)


def _seen(rules: str, sightings: Sequence[Sighting], count: int, moment: datetime) -> ReferrersSeen:
    """Return what the next job needs to know of a look at everything, which began with the image itself."""
    first, *rest = (one.lines for one in sightings)
    return ReferrersSeen(rules, hash_of(first), hash_of(chain.from_iterable(rest)), count, int(moment.timestamp()))


def _types(content: ManifestContent) -> Iterable[str]:
    """Return all types by which a rule may name a referrer: its artifact type, and those of its config and layers."""
    yield described(content).artifact_type
    if not isinstance(content.parsed, Index):
        yield from (blob.media_type for blob in content.parsed.blobs)


def _left_out(reference: Reference, reason: str) -> _NotCopied:
    _LOG.warning("a referrer is left out", source=str(reference), reason=reason)
    return "left out"
