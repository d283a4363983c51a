"""Publish an image: make it readable under its target, once the bucket holds all its blobs.

A staged image is published without its tag. The release of its job moves that (release.py).

The order of the writes is what keeps a reader from seeing half an image: what the manifests need, then the manifests'
own links, children first, then the tag. See tag_change.py for locks and concurrent changes.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import replace
from functools import partial
from typing import Final

from mirror.catalog.entry import ImageEntry
from mirror.catalog.overwrite import FoundImage, decide_overwrite, is_about_move, is_guarded
from mirror.catalog.reader import CatalogReader
from mirror.catalog.tag_change import (
    COMMIT_TIMEOUT,
    Precondition,
    TagChange,
    TagChanges,
    TagUpdate,
    require_allowed,
)
from mirror.errors import TagDrifted
from mirror.locks.lease import Lease
from mirror.oci.digest import Digest
from mirror.oci.image import Image
from mirror.oci.local_image import LocalImage
from mirror.oci.manifest import Index
from mirror.oci.verification import verify
from mirror.records.rules import PLAIN_COPY, CopyOptions
from mirror.records.task import Skipped
from mirror.storage.blobs import BlobStore
from mirror.storage.disk import LocalDisk
from mirror.storage.links import KeptStore, LinkStore
from mirror.storage.provenance import ImageProvenance, ImageSummary, ProvenanceStore, platforms_mode

_WRITERS: Final = 16
_WRITTEN_AT_ONCE: Final = 1_000


class Publisher:
    """Publishes images whose blobs the bucket holds. Safe to share between threads."""

    def __init__(
        self,
        disk: LocalDisk,
        changes: TagChanges,
        reader: CatalogReader,
        *,
        blobs: BlobStore,
        links: LinkStore,
        kept: KeptStore,
        provenance: ProvenanceStore,
    ) -> None:
        self._disk = disk
        self._changes = changes
        self._reader = reader
        self._blobs = blobs
        self._links = links
        self._kept = kept
        self._provenance = provenance

    def publish(
        self,
        change: TagChange,
        image: Image,
        origin: ImageProvenance,
        *,
        allowed: Precondition | None = None,
        options: CopyOptions | None = None,
    ) -> TagUpdate:
        """Make *image* readable as the target of *change*. Its blobs are all held and pinned.

        *options* are those of a copy from a source, None for any other change. *allowed* and what they say of
        overwriting are checked before anything is written, and again under the tag's lease. Raises PreconditionFailed,
        TagDrifted, TagBusy if another process holds the lease for long, StorageUnavailable or StorageRefused.
        """
        target = change.target
        if target.tag:
            before = self._before(target, allowed, options or PLAIN_COPY)
            if stopped := self._stopped(change, image.digest, origin, before, options or PLAIN_COPY):
                return stopped
        if target.tag is None:
            self.stage(target, image, origin)
            return TagUpdate(image.digest)
        summary = self._write_below_manifests(target, image)
        update = self._publish_tag(change, image, summary, origin, allowed, options)
        self._disk.sync()
        return update

    def stage(self, target: LocalImage, image: Image, origin: ImageProvenance) -> None:
        """Write everything of *image* but its tag. The repository serves it by its digest then.

        The release of its job moves the tag, and pins the image once more for that. Until then the garbage collector
        must mark from the digests of the staged tasks of all open jobs (``Task.staged``), as it marks from tags.
        """
        summary = self._write_below_manifests(target, image)
        self._link_manifests(target.repository, image, summary, origin)
        self._disk.sync()

    def _publish_tag(
        self,
        change: TagChange,
        image: Image,
        summary: ImageSummary,
        origin: ImageProvenance,
        allowed: Precondition | None,
        options: CopyOptions | None,
    ) -> TagUpdate:
        """Link the manifests and move the tag, under its lease."""
        target = change.target
        with self._changes.lock(target) as lease:
            before = self._before(target, allowed, options or PLAIN_COPY)
            if stopped := self._stopped(change, image.digest, origin, before, options or PLAIN_COPY):
                return stopped
            self._commit(change, lease, image, summary, origin, is_checked=options is not None)
            return TagUpdate(image.digest, created=allowed is not None and before is None)

    def publish_locked(
        self, change: TagChange, lease: Lease, image: Image, summary: ImageSummary, origin: ImageProvenance
    ) -> None:
        """Publish an image that the caller made of what the tag shows. The caller holds *lease* since it read that.

        Its manifests are written here. The bucket holds all else that *summary* counts. Raises TagBusy if the lease was
        lost, StorageUnavailable or StorageRefused.
        """
        for manifest in image.manifests:
            self._blobs.put(verify(manifest.body, manifest.descriptor), manifest.body)
        self._disk.sync()
        self._commit(change, lease, image, summary, origin, is_checked=False)
        self._disk.sync()

    def _commit(
        self,
        change: TagChange,
        lease: Lease,
        image: Image,
        summary: ImageSummary,
        origin: ImageProvenance,
        *,
        is_checked: bool,
    ) -> None:
        """Link the manifests and move the tag. The caller holds *lease*."""
        target = change.target
        history = partial(self._links.add_to_history, *change.tag, image.digest, timeout=COMMIT_TIMEOUT)
        record = self._link_manifests(target.repository, image, summary, origin, history)
        summary = record.summary or summary
        entry = ImageEntry.of(target, image.digest, summary, record)
        self._changes.commit(change, lease, entry, summary.sizes, is_checked=is_checked)

    def _before(self, target: LocalImage, allowed: Precondition | None, options: CopyOptions) -> Digest | None:
        """Return what the tag shows, None also where nothing depends on that. Raises PreconditionFailed."""
        if not allowed and not is_guarded(options, target):
            return None
        before = self._changes.current(target)
        if allowed:
            require_allowed(target, before, allowed)
        return before

    def _stopped(
        self, change: TagChange, digest: Digest, origin: ImageProvenance, before: Digest | None, options: CopyOptions
    ) -> TagUpdate | None:
        """Return the result of a change that does not move its tag, which shows *before*. None for any other.

        A change that a later one overtook has not drifted: the later one asked the source after it. Raises TagDrifted.
        """
        found = FoundImage(origin.source, origin.digest, digest)
        decision = decide_overwrite(options, change.target, before, found)
        if before and isinstance(decision, Skipped) and not is_about_move(decision):
            return TagUpdate(before, skipped=decision)
        if by := self._changes.superseded_by(change):
            return TagUpdate(digest, superseded_by=by)
        if isinstance(decision, TagDrifted):
            raise decision
        if before and decision:
            repository = change.target.repository
            if self._provenance.made_from(repository, before, timeout=COMMIT_TIMEOUT) != origin.digest:
                return TagUpdate(before, skipped=decision)
        return None

    def _write_below_manifests(self, target: LocalImage, image: Image) -> ImageSummary:
        """Write everything that a reader of the manifests will need, and bring it to the disk.

        Of this nothing can be read yet, except blobs by their digest. The ``kept`` object is written before the
        revision that it protects. Returns what lists show of the image, whose config is read meanwhile.
        """
        repository = target.repository
        if target.tag is None:
            self._kept.keep(repository, image.digest)
        with ThreadPoolExecutor(_WRITERS, thread_name_prefix="links") as pool:
            summary = pool.submit(self._reader.summarize, image)
            _run_in_parallel(
                pool,
                *(partial(self._links.link_layer, repository, blob.digest) for blob in image.blobs),
                *(partial(self._blobs.put, verify(m.body, m.descriptor), m.body) for m in image.manifests),
            )
        self._disk.sync()
        return summary.result()

    def _link_manifests(
        self,
        repository: str,
        image: Image,
        summary: ImageSummary,
        origin: ImageProvenance,
        *others: Callable[[], None],
    ) -> ImageProvenance:
        """Make the manifests readable by their digests: children first, so that no reader finds an index without them.

        The record of where the image came from and *others* are written in parallel with the links of the children.
        Returns the record.
        """
        link = partial(self._links.link_revision, repository)
        manifests, indexes = image.split
        with ThreadPoolExecutor(_WRITERS, thread_name_prefix="links") as pool:
            record = pool.submit(self._record, repository, image, replace(origin, summary=summary))
            _run_in_parallel(pool, *others, *(partial(link, manifest.descriptor.digest) for manifest in manifests))
        written = record.result()
        for index in indexes:
            link(index.descriptor.digest)
        return written

    def _record(self, repository: str, image: Image, origin: ImageProvenance) -> ImageProvenance:
        """Write the record of an image and return it. That of a sparse index has what the repository held of it before.

        One process at a time does this for an image. So of two that hold different parts of one index, the record
        names both parts.
        """
        with self._changes.lock_record(repository, image.digest):
            if platforms_mode(origin.platforms) == "sparse" and isinstance(image.root.parsed, Index):
                before = self._provenance.image(repository, image.digest, timeout=COMMIT_TIMEOUT)
                origin = origin.joined(before)
            self._provenance.record_image(repository, image.digest, origin, timeout=COMMIT_TIMEOUT)
        return origin


def _run_in_parallel(pool: ThreadPoolExecutor, *writes: Callable[[], None]) -> None:
    """Run small writes in parallel, since each only waits for S3. Raise a failure after all have ended."""
    for begin in range(0, len(writes), _WRITTEN_AT_ONCE):  # each that waits for a thread takes 1.5 kB
        done, _ = wait([pool.submit(write) for write in writes[begin : begin + _WRITTEN_AT_ONCE]])
        for future in done:
            future.result()
