"""Changing what the mirror holds: publish, re-tag, delete.

Every change of a tag runs under the tag's one lease, and with a number from the tag's sequence that it took before it
looked at what the tag should become. The commit is a single PUT of ``current/link`` with retries off and less time
than the lease has left, so a holder that lost its lease cannot write late: its PUT has ended, one way or the other,
before anybody else holds the lease. Blobs and layer links are written before, outside the lease, revision links under
it, beside the tag's history; all are idempotent and nobody takes them away, so two publishers of one image only write
the same twice.

Where S3 itself does not promise it, what was written is brought to the disk twice (`Bucket.sync`). The first time is
before the commit, so that a power cut leaves no tag without its image. The second is before anybody is answered.

The index in Redis is changed after the commit and under the same lease. A crash between the two is mended by the
task that runs again, since it finds the tag in place and lists it (`confirm`).
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Final

import structlog

from mirror.catalog.entry import ImageEntry, Listed, entry_of, summary_of
from mirror.catalog.index import CatalogIndex
from mirror.catalog.reader import CatalogReader, platforms
from mirror.catalog.tag_change import LockedTags, TagChange, TagUpdate
from mirror.errors import ImageNotHeld, PreconditionFailed, RedisUnavailable, TagBusy
from mirror.locks.lease import Lease, Leases
from mirror.locks.pins import Pins
from mirror.locks.tag_sequence import TagSequence
from mirror.oci.digest import Digest
from mirror.oci.image import Image
from mirror.oci.local_image import LocalImage
from mirror.oci.reference import Reference
from mirror.oci.verification import verify
from mirror.redis import keys
from mirror.redis.client import Redis
from mirror.storage.blobs import BlobStore
from mirror.storage.bucket import Bucket
from mirror.storage.kept import KeptStore
from mirror.storage.links import LinkStore
from mirror.storage.provenance import ImageProvenance, ImageSummary, ProvenanceStore

LEASE_SECONDS: Final = 30.0
COMMIT_TIMEOUT: Final = 10.0
"""Seconds for the commit PUT, under half the lease."""
_PATIENCE: Final = 10.0
_WRITERS: Final = 16
_WRITTEN_AT_ONCE: Final = 1_000
_LOG = structlog.get_logger(__name__)

Precondition = Callable[[Digest | None], bool]
"""Given what the tag points at now, whether the change may go on (If-Match, If-None-Match)."""


class Publisher:
    """Publishes images whose blobs the bucket holds. Safe to share between threads."""

    def __init__(self, bucket: Bucket, redis: Redis) -> None:
        self._bucket = bucket
        self._blobs = BlobStore(bucket)
        self._links = LinkStore(bucket)
        self._kept = KeptStore(bucket)
        self._provenance = ProvenanceStore(bucket)
        self._reader = CatalogReader(bucket)
        self._index = CatalogIndex(redis)
        self._leases = Leases(redis)
        self._sequence = TagSequence(redis)
        self._pins = Pins(redis)

    def ticket(self, target: LocalImage, by: str) -> TagChange:
        """Take a number for a change of *target*, before looking at what it should become."""
        return self.tickets([(target, by)])[0]

    def tickets(self, wanted: Sequence[tuple[LocalImage, str]]) -> list[TagChange]:
        """For each (target, by) its ticket, in one turn."""
        tags = [(target.repository, target.tag) for target, _ in wanted if target.tag]
        numbers = iter(self._sequence.take(tags))
        return [TagChange(target, next(numbers) if target.tag else 0, by) for target, by in wanted]

    def listed(self, targets: Sequence[LocalImage]) -> list[Listed | None]:
        """For each target what the index lists of its tag, None for one that is not listed or no tag."""
        found = self._index.look_up_all([(target.repository, target.tag or "") for target in targets])
        return [listed if target.tag else None for target, listed in zip(targets, found, strict=True)]

    def publish(self, ticket: TagChange, image: Image, origin: ImageProvenance) -> TagUpdate:
        """Make *image*, whose blobs are all held and pinned, readable as the ticket's target.

        Raises TagBusy if others hold the tag's lease for long, StorageUnavailable or StorageRefused.
        """
        target = ticket.target
        if target.tag and (by := self._sequence.overtaken_by(target.repository, target.tag, ticket.number)):
            return TagUpdate(image.digest, superseded_by=by)
        summary = self._write_below_the_manifests(target, image)
        record = self._recording(target, image, replace(origin, summary=summary))
        if target.tag is None:
            self._link_manifests(target.repository, image, record)
            published = TagUpdate(image.digest)
        else:
            entry = entry_of(target, image.digest, summary, origin)
            with self._holding(target) as lease:
                published = self._commit(ticket, lease, image, entry, record)
        self._bucket.sync()
        return published

    def confirm(
        self, ticket: TagChange, digest: Digest, source: Reference, *, served: bool = False
    ) -> TagUpdate | None:
        """Note that the ticket's target shows *digest* already; None if it does not, or not completely.

        None also where *source* has not served the digest's bytes, neither now, as *served* says, nor before: whoever
        knows a digest could name it. What the index says of that costs no request to S3.

        Where the index lists something else the bucket is not asked: should the index be wrong, the image is published
        once more, and then it is right.
        """
        target = ticket.target
        if target.tag is None:
            return self._confirm_kept(target, digest, source, served=served)
        repository, tag = target.repository, target.tag
        entry, is_built = self._index.look_up(repository, tag)
        is_listed = entry is not None and entry.digest == str(digest)
        is_known = is_listed and entry is not None and entry.is_from(source)
        if is_listed or (entry is None and not is_built):
            new = source if not is_known and self._has_served(source, digest, repository, now=served) else None
            is_known = is_known or new is not None
            if is_known and (published := self._confirm_shown(ticket, digest, is_listed=is_listed, new_source=new)):
                return published
        by = self._sequence.overtaken_by(repository, tag, ticket.number)
        if by and (is_known or served or self._has_served(source, digest, repository)):
            return TagUpdate(digest, superseded_by=by)
        return None

    def _confirm_kept(self, target: LocalImage, digest: Digest, source: Reference, *, served: bool) -> TagUpdate | None:
        repository = target.repository
        is_kept = target.digest == digest and self._links.has_revision(repository, digest)
        if not is_kept or not self._kept.is_kept(repository, digest):
            return None
        return TagUpdate(digest) if self._has_served(source, digest, repository, now=served) else None

    def _confirm_shown(
        self, ticket: TagChange, digest: Digest, *, is_listed: bool, new_source: Reference | None
    ) -> TagUpdate | None:
        """*new_source* served the image, as the bucket says, and its entry does not yet say so."""
        repository, tag = ticket.tag
        with self._holding(ticket.target):
            if self._links.current(repository, tag, timeout=COMMIT_TIMEOUT) != digest:
                return None
            if not is_listed:
                self._list(ticket.target, digest)
            if new_source and (entry := self._index.entry(repository, tag)) and not entry.is_from(new_source):
                self._index.replace(entry.found_at(new_source))
            by = self._sequence.publish(repository, tag, ticket.number, ticket.by)
            return TagUpdate(digest, superseded_by=by)

    def _has_served(self, source: Reference, digest: Digest, repository: str, *, now: bool = False) -> bool:
        """Whether *source* served the manifest, as the bucket says; if it did *now*, the bucket will say so."""
        if self._provenance.has_served(source, digest, into=repository):
            return True
        if now:
            self._provenance.record_blob_source(digest, source.registry, source.repository)
        return now

    @contextmanager
    def holding_tags(self, wanted: Sequence[tuple[TagChange, Digest]]) -> Iterator[LockedTags]:
        """Hold the leases of many tags, as far as nobody else does, while the bucket is asked which show the digests
        beside them; with a turn to Redis for each step, and few to S3. What it answers is waited for when it is used.
        """
        leases = self._leases.take_all([keys.tag_lease(*ticket.tag) for ticket, _ in wanted], LEASE_SECONDS)
        held = {t: (lease, digest) for (t, digest), lease in zip(wanted, leases, strict=True) if lease}
        hoped_for = {ticket.tag: digest for ticket, (_, digest) in held.items()}
        try:
            with ThreadPoolExecutor(1, thread_name_prefix="tags") as pool:
                shown = pool.submit(self._links.showing, hoped_for, timeout=COMMIT_TIMEOUT)
                yield LockedTags(self._leases, self._sequence, held, shown)
        finally:
            self._give_back([lease for lease, _ in held.values()])

    def _give_back(self, leases: Sequence[Lease]) -> None:
        try:
            self._leases.end(*leases)
        except RedisUnavailable:
            _LOG.warning("the leases of tags are left to end by themselves", leases=len(leases))

    def retag(self, target: LocalImage, source: LocalImage, *, allowed: Precondition) -> TagUpdate:
        """Point *target* at what *source* holds, moving no bytes.

        Raises ImageNotHeld, PreconditionFailed, TagBusy or BlobBeingDeleted. As a copy does, it pins the image and then
        looks that all of it is there, in case the collector comes for a source that was deleted meanwhile.
        """
        ticket = self.ticket(target, "retag")
        image = self._reader.image(source)
        with self._pinned(image):
            self._require_held(source, image)
            return self._retag(ticket, source, image, allowed)

    def _retag(self, ticket: TagChange, source: LocalImage, image: Image, allowed: Precondition) -> TagUpdate:
        target = ticket.target
        found = self._provenance.image(source.repository, image.digest)
        origin = found or ImageProvenance(source=str(source), digest=image.digest, mirrored_at="", job="")
        self._require(target, self._links.current(target.repository, str(target.tag)), allowed)
        summary = self._write_below_the_manifests(target, image)
        record = self._recording(target, image, replace(origin, summary=summary))
        entry = entry_of(target, image.digest, summary, origin)
        with self._holding(target) as lease:
            before = self._links.current(target.repository, str(target.tag))
            self._require(target, before, allowed)
            published = self._commit(ticket, lease, image, entry, record, is_new=before is None)
        self._bucket.sync()
        return published

    def delete(self, target: LocalImage, *, allowed: Precondition) -> None:
        """Take a tag away at once; its blobs stay for the collector, and so does what other tags need.

        Raises ImageNotHeld, PreconditionFailed or TagBusy. A copy that asked its source before the delete does not
        bring the tag back: the delete has a later number.
        """
        repository, tag = target.repository, str(target.tag)
        ticket = self.ticket(target, "delete")
        with self._holding(target):
            current = self._links.current(repository, tag)
            if current is None:
                raise ImageNotHeld(str(target))
            self._require(target, current, allowed)
            self._links.delete_tag(repository, tag)
            self._index.remove(repository, tag)
            self._sequence.publish(repository, tag, ticket.number, ticket.by)
        self._bucket.sync()

    def relist(self, repository: str, tag: str) -> None:
        """Make the index say what the bucket says of one tag; raises TagBusy."""
        target = LocalImage(repository, tag)
        with self._holding(target):
            self._list(target, self._links.current(repository, tag))

    def _write_below_the_manifests(self, target: LocalImage, image: Image) -> ImageSummary:
        """Everything a reader of the manifests will need. Nothing of it can be read yet, but blobs by their digest.

        All of it survives a power cut before anything refers to it. ``kept`` stands before the revision it protects.
        Returns what lists will tell of the image. Its config is read meanwhile.
        """
        repository = target.repository
        if target.tag is None:
            self._kept.keep(repository, image.digest)
        with ThreadPoolExecutor(_WRITERS, thread_name_prefix="links") as pool:
            config = pool.submit(self._reader.config, image)
            _all_at_once(
                pool,
                *(partial(self._links.link_layer, repository, blob.digest) for blob in image.blobs),
                *(partial(self._blobs.put, verify(m.body, m.descriptor), m.body) for m in image.manifests),
            )
        self._bucket.sync()
        return summary_of(image, platforms(image, config.result()))

    def _recording(self, target: LocalImage, image: Image, origin: ImageProvenance) -> Callable[[], None]:
        """Return what writes the image's record: along with the links, since it waits for the image's config."""
        return partial(self._provenance.record_image, target.repository, image.digest, origin)

    def _link_manifests(self, repository: str, image: Image, *others: Callable[[], None]) -> None:
        """Make the manifests readable by their digests, children first, so that no reader sees a part as the whole;
        *others* are written beside them.
        """
        link = partial(self._links.link_revision, repository)
        manifests, indexes = image.split
        with ThreadPoolExecutor(_WRITERS, thread_name_prefix="links") as pool:
            _all_at_once(pool, *others, *(partial(link, manifest.descriptor.digest) for manifest in manifests))
        for index in indexes:
            link(index.descriptor.digest)

    def _commit(
        self,
        ticket: TagChange,
        lease: Lease,
        image: Image,
        entry: ImageEntry,
        record: Callable[[], None],
        *,
        is_new: bool = False,
    ) -> TagUpdate:
        """Under the tag's lease: move the tag, unless a later change was there first."""
        repository, tag = ticket.target.repository, str(ticket.target.tag)
        if by := self._sequence.overtaken_by(repository, tag, ticket.number):
            return TagUpdate(image.digest, superseded_by=by)
        history = partial(self._links.add_to_history, repository, tag, image.digest, timeout=COMMIT_TIMEOUT)
        self._link_manifests(repository, image, record, history)
        if not self._leases.renew(lease):
            raise TagBusy(str(ticket.target))
        self._links.set_current(repository, tag, image.digest, timeout=COMMIT_TIMEOUT)
        self._index.put(entry, image.sizes)
        self._sequence.publish(repository, tag, ticket.number, ticket.by)
        return TagUpdate(image.digest, created=is_new)

    def _list(self, target: LocalImage, current: Digest | None) -> None:
        """Under the tag's lease: list the tag as the bucket holds it, showing *current*, or not at all."""
        repository, tag = target.repository, str(target.tag)
        listed = self._index.entry(repository, tag)
        if listed and current and listed.digest == str(current):
            return
        try:
            image = self._reader.image(target) if current else None
        except ImageNotHeld:
            image = None
        if image is None:
            self._index.remove(repository, tag)
            return
        origin = self._provenance.image(repository, image.digest)
        summary = summary_of(image, platforms(image, self._reader.config(image)))
        self._index.put(entry_of(target, image.digest, summary, origin), image.sizes)

    @contextmanager
    def _pinned(self, image: Image) -> Iterator[None]:
        holder = f"retag-{secrets.token_hex(8)}"
        try:
            self._pins.pin(holder, list(image.sizes))
            yield
        finally:
            self._pins.release(holder)

    def _require_held(self, name: LocalImage, image: Image) -> None:
        sizes = image.sizes
        with ThreadPoolExecutor(_WRITERS, thread_name_prefix="heads") as pool:
            held = list(pool.map(self._blobs.held, sizes))
        if held != list(sizes.values()):
            raise ImageNotHeld(str(name))

    def _require(self, target: LocalImage, current: Digest | None, allowed: Precondition) -> None:
        if not allowed(current):
            raise PreconditionFailed(str(target), str(current) if current else None)

    @contextmanager
    def _holding(self, target: LocalImage) -> Iterator[Lease]:
        key = keys.tag_lease(target.repository, str(target.tag))
        with self._leases.holding(key, LEASE_SECONDS, patience=_PATIENCE) as lease:
            if lease is None:
                raise TagBusy(str(target))
            yield lease


def _all_at_once(pool: ThreadPoolExecutor, *writes: Callable[[], None]) -> None:
    """Run small writes side by side, since each only waits for S3; a failure is raised after all have ended."""
    for begin in range(0, len(writes), _WRITTEN_AT_ONCE):  # each that waits for a thread takes 1.5 kB
        done, _ = wait([pool.submit(write) for write in writes[begin : begin + _WRITTEN_AT_ONCE]])
        for future in done:
            future.result()
