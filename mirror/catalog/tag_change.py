"""The change of one tag: its number, its lock and its commit. Publish, retag and delete all go this way.

The release of an atomic job changes many tags so, all of whose leases it holds: see release.py.

1. Take a number from the tag's sequence, before looking at what the tag should become.
2. Write what the new image needs: blobs, layer links, manifests. This needs no lock.
3. Lock the tag, by taking its one lease.
4. Stop if a change with a higher number is recorded. The result then names it in ``superseded_by``.
5. Write the links of the manifests and the entry of the tag's history.
6. Renew the lease, let readers ask the bucket for the tag (current_tags.py), and commit. The commit is one PUT of
   ``current/link``.
7. Let readers see the new digest, list the tag in the index, record the number, and give the lease back.

Two changes of one tag may run at the same time, on two machines, for these reasons:

- The change with the later number wins, whichever ends first. So of two copies, the one that asked its source later
  decides what the tag shows.
- A process that lost its lease cannot write late. It renews the lease right before the commit, whose timeout is under
  half the lease. The commit is sent again only after a 500, in the first quarter of that timeout. So its last PUT has
  ended before another process can hold the lease. If S3 has not answered by then, it may still do that PUT: the lease
  is not given back, and expires.
- Steps 2 and 5 may run twice, and no copy deletes what they wrote. Two publishers of one image write the same objects,
  except for the record of where it came from. That has a lease of its own.
- A process may die between commit and index. The task then runs again, finds the tag in place, and lists it.

A server may hold writes in memory for a while, as the embedded S3 does. `LocalDisk.sync` brings them to its disk. It is
called before the commit, so that a power cut leaves no tag without its image, and again before the caller gets its
result.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from random import uniform
from time import monotonic, sleep
from typing import Final

import structlog

from mirror.catalog.current_tags import CurrentTags
from mirror.catalog.entry import ImageEntry
from mirror.catalog.index import CatalogIndex
from mirror.errors import PreconditionFailed, RedisUnavailable, TagBusy
from mirror.locks.lease import Lease, Leases
from mirror.locks.tag_sequence import Publication, TagSequence
from mirror.oci.digest import Digest
from mirror.oci.local_image import LocalImage
from mirror.records.task import Skipped
from mirror.redis import keys
from mirror.storage.links import LinkStore
from mirror.storage.s3 import ResponseLate

LEASE_SECONDS: Final = 30.0
COMMIT_TIMEOUT: Final = 10.0
"""Seconds for the PUT that commits a change. With the quarter that `Bucket.put` adds, under half the lease."""
_LOCK_TIMEOUT: Final = 10.0
"""Seconds that a change waits for a tag that another process has locked."""
_LOG = structlog.get_logger(__name__)

Precondition = Callable[[Digest | None], bool]
"""Whether a change may go on, given what the tag shows now (If-Match, If-None-Match). None: there is no such tag."""


@dataclass(frozen=True, slots=True)
class TagChange:
    """A numbered change of a tag. *by* is what the changes that it supersedes report as ``superseded_by``.

    A target without a tag, which is kept by its digest, has no sequence. Its number is 0.
    """

    target: LocalImage
    number: int
    by: str

    @property
    def tag(self) -> tuple[str, str]:
        """Repository and tag."""
        return self.target.repository, str(self.target.tag)


@dataclass(frozen=True, slots=True)
class TagUpdate:
    """The result of a change. ``superseded_by`` names the later change that came first, and then the tag shows that.

    ``created`` says that the tag is new. Only a change with a precondition looks whether it is. ``skipped`` says why
    the tag was left alone on purpose, and then ``digest`` is what it shows.
    """

    digest: Digest
    created: bool = False
    superseded_by: str | None = None
    skipped: Skipped | None = None


class TagChanges:
    """Numbers, locks and commits changes of tags. Safe to share between threads."""

    def __init__(
        self, leases: Leases, sequence: TagSequence, tags: CurrentTags, links: LinkStore, index: CatalogIndex
    ) -> None:
        self._leases = leases
        self._sequence = sequence
        self._tags = tags
        self._links = links
        self._index = index

    def take_numbers(self, wanted: Sequence[tuple[LocalImage, str]]) -> list[TagChange]:
        """Number a change for each (target, by), in one round trip. Call this before looking at the source."""
        tags = [(target.repository, target.tag) for target, _ in wanted if target.tag]
        numbers = iter(self._sequence.take(tags))
        return [TagChange(target, next(numbers) if target.tag else 0, by) for target, by in wanted]

    def superseded_by(self, change: TagChange) -> str | None:
        """Return who recorded a later change of the tag, None if there is none."""
        return self._sequence.overtaken_by(*change.tag, change.number)

    def published(self, changes: Sequence[TagChange]) -> list[Publication | None]:
        """Return for each change which one was recorded last for its tag, None if none was. Takes one round trip."""
        return self._sequence.all_published([change.tag for change in changes])

    def lock(self, target: LocalImage) -> AbstractContextManager[Lease]:
        """Hold the tag's lease for the block. Raises TagBusy if another process holds it for long."""
        return _locked(self._leases, keys.tag_lease(target.repository, str(target.tag)), str(target))

    def lock_record(self, repository: str, digest: Digest) -> AbstractContextManager[Lease]:
        """Hold the lease of an image's record for the block, which reads and writes it, each within `COMMIT_TIMEOUT`.

        Several tags of one image may be published at once, each under its own lease. They share the record. Raises
        TagBusy if another process holds the lease for long.
        """
        return _locked(self._leases, keys.image_record_lease(repository, digest), f"{repository}@{digest}")

    @contextmanager
    def lock_available(self, changes: Sequence[TagChange]) -> Iterator[Mapping[TagChange, Lease]]:
        """Hold the leases of those tags that no other process has locked, without waiting, for the block."""
        leases = self._leases.take_all([keys.tag_lease(*change.tag) for change in changes], LEASE_SECONDS)
        locked = {change: lease for change, lease in zip(changes, leases, strict=True) if lease}
        try:
            yield locked
        finally:
            try:
                self._leases.end(*locked.values())
            except RedisUnavailable:
                _LOG.warning("leases of tags were not given back and will expire", leases=len(locked))

    @contextmanager
    def lock_all(self, changes: Sequence[TagChange]) -> Iterator[Mapping[TagChange, Lease]]:
        """Hold the leases of all tags for the block. Renew them with `renew` if that takes more than seconds.

        A caller waits for a tag only while it holds no later one in the order of their names. So no two callers wait
        for each other. Raises TagBusy, without any lease, if others hold one of them for long.
        """
        wanted = sorted(changes, key=lambda change: change.tag)
        until = monotonic() + _LOCK_TIMEOUT
        held: list[Lease] = []
        try:
            while len(held) < len(wanted):
                held += self._take_first([keys.tag_lease(*change.tag) for change in wanted[len(held) :]])
                if len(held) < len(wanted):
                    if monotonic() > until:
                        raise TagBusy(str(wanted[len(held)].target))
                    sleep(uniform(0.01, 0.2))  # noqa: S311 - spreads the attempts, protects nothing
            yield dict(zip(wanted, held, strict=True))
        except ResponseLate:
            held = []
            raise
        finally:
            try:
                self._leases.end(*held)
            except RedisUnavailable:
                _LOG.warning("leases of tags were not given back and will expire", leases=len(held))

    def _take_first(self, lease_keys: Sequence[str]) -> list[Lease]:
        """Take leases in their order, up to the first that another process holds."""
        taken = self._leases.take_all(lease_keys, LEASE_SECONDS)
        first = next((place for place, lease in enumerate(taken) if lease is None), len(taken))
        self._leases.end(*(lease for lease in taken[first:] if lease))
        return [lease for lease in taken[:first] if lease]

    def renew(self, leases: Sequence[Lease]) -> list[bool]:
        """Renew the leases. Return for each whether this process still held it."""
        return self._leases.renew_all(leases)

    def current(self, target: LocalImage) -> Digest | None:
        """Return what the tag points at in the bucket, None if there is no such tag."""
        return self._links.current(target.repository, str(target.tag))

    def last_known(self, target: LocalImage) -> Digest | None:
        """Return what `current` returns, from Redis where that is certain (current_tags.py).

        It costs no request to S3 then. A change must not build on it.
        """
        [known] = self._tags.read([target.repository], str(target.tag))
        return known.digest if known.digest or known.is_absent else self.current(target)

    def commit(
        self, change: TagChange, lease: Lease, entry: ImageEntry, sizes: Mapping[Digest, int], *, is_checked: bool
    ) -> None:
        """Point the tag at the image of *entry*, list it, and record the change. The caller holds *lease*.

        *sizes* are the bytes of everything that the image needs. *is_checked* says that a source has the image now.
        Raises TagBusy if the lease was lost. After that, and after StorageUnavailable, the tag may have moved or not.
        """
        digest = Digest.parse(entry.digest)
        with self.changing(change, lease, digest):
            self._links.set_current(*change.tag, digest, timeout=COMMIT_TIMEOUT)
        self._index.put(entry, sizes, is_checked=is_checked)
        self.record([change])

    @contextmanager
    def changing(self, change: TagChange, lease: Lease, digest: Digest | None) -> Iterator[None]:
        """Change the tag in the bucket in the block: to *digest*, or delete it. The caller holds *lease*.

        Readers ask the bucket until the block has ended, and for longer if it raised. Raises TagBusy if the lease was
        lost before the block, or during it.
        """
        if not self._tags.begin_change(lease, *change.tag):
            raise TagBusy(str(change.target))
        yield
        if not self._tags.end_change(lease, *change.tag, digest):
            raise TagBusy(str(change.target))

    def record(self, changes: Sequence[TagChange]) -> list[str | None]:
        """Record that the tags show what these changes made of them. The caller holds their leases.

        Return for each change who recorded a later one. Such a change is not recorded.
        """
        return self._sequence.publish([(*change.tag, change.number, change.by) for change in changes])


@contextmanager
def _locked(leases: Leases, key: str, what: str) -> Iterator[Lease]:
    with leases.holding(key, LEASE_SECONDS, patience=_LOCK_TIMEOUT, kept_after=ResponseLate) as lease:
        if lease is None:
            raise TagBusy(what)
        yield lease


def require_allowed(name: LocalImage, current: Digest | None, allowed: Precondition) -> None:
    """Raise PreconditionFailed unless *name* may be changed while it shows *current*."""
    if not allowed(current):
        raise PreconditionFailed(str(name), str(current) if current else None)
