"""Delete a name: a tag, or what keeps an image by its digest. Blobs stay for the garbage collector."""

from __future__ import annotations

from mirror.catalog.index import CatalogIndex
from mirror.catalog.reader import CatalogReader
from mirror.catalog.tag_change import COMMIT_TIMEOUT, Precondition, TagChange, TagChanges, require_allowed
from mirror.errors import ImageNotHeld, ManifestInUse
from mirror.locks.lease import Lease
from mirror.oci.digest import Digest
from mirror.oci.local_image import LocalImage
from mirror.storage.disk import LocalDisk
from mirror.storage.links import KeptStore, LinkStore
from mirror.storage.tombstones import Tombstone, TombstoneStore


class Deleter:
    """Deletes names of images. Safe to share between threads."""

    def __init__(
        self,
        disk: LocalDisk,
        changes: TagChanges,
        reader: CatalogReader,
        index: CatalogIndex,
        *,
        links: LinkStore,
        kept: KeptStore,
        tombstones: TombstoneStore,
    ) -> None:
        self._disk = disk
        self._changes = changes
        self._reader = reader
        self._index = index
        self._links = links
        self._kept = kept
        self._tombstones = tombstones

    def delete(self, name: LocalImage, *, allowed: Precondition) -> None:
        """Delete a tag, or keep a digest no longer. What other tags need stays.

        Raises ImageNotHeld, PreconditionFailed, TagBusy, or ManifestInUse for a digest that a tag shows.
        """
        if name.digest is None:
            self._delete_tag(name, allowed)
        else:
            self._unkeep(name, name.digest, allowed)

    def delete_unless_changed(self, change: TagChange, tombstone: Tombstone | None, *, allowed: Precondition) -> bool:
        """Delete the tag of *change* because its source has deleted it. Return whether it is gone.

        The change was numbered before the source was asked. So a copy that asked the source later wins, and one that
        asked earlier does not bring the tag back. With a *tombstone* the image stays readable by its digest. May be
        repeated after an error. Raises TagBusy, StorageUnavailable or StorageRefused.
        """
        repository, tag = change.tag
        with self._changes.lock(change.target) as lease:
            if self._changes.superseded_by(change):
                return False
            current = self._changes.current(change.target)
            if current is not None:
                if not allowed(current):
                    return False
                if tombstone:
                    self._kept.keep(repository, current)
                    self._tombstones.write(repository, tag, tombstone)
                    self._disk.sync()
                self._delete_link(change, lease)
            self._forget(change)
        self._disk.sync()
        return True

    def _delete_tag(self, target: LocalImage, allowed: Precondition) -> None:
        """Delete a tag and its history. A copy that asked its source earlier does not bring the tag back."""
        [change] = self._changes.take_numbers([(target, "delete")])
        with self._changes.lock(target) as lease:
            current = self._changes.current(target)
            if current is None:
                raise ImageNotHeld(str(target))
            require_allowed(target, current, allowed)
            self._delete_link(change, lease)
            self._forget(change)
            self._tombstones.delete(*change.tag)
        self._disk.sync()

    def _delete_link(self, change: TagChange, lease: Lease) -> None:
        with self._changes.changing(change, lease, None):
            self._links.delete_tag(*change.tag, timeout=COMMIT_TIMEOUT)

    def _forget(self, change: TagChange) -> None:
        """Take a deleted tag out of the index, and delete its history. The caller holds its lease."""
        self._index.remove(*change.tag)
        self._changes.record([change])
        self._links.delete_history(*change.tag)

    def _unkeep(self, name: LocalImage, digest: Digest, allowed: Precondition) -> None:
        """Keep a digest no longer. No lease is needed: a tag that is pointed at it meanwhile protects the image."""
        require_allowed(name, self._reader.digest(name), allowed)
        showing, _ = self._index.images(
            limit=1, repository=name.repository, wanted=lambda entry: entry.digest == str(digest)
        )
        if showing:
            raise ManifestInUse(str(name), f"the tag '{showing[0].tag}'")
        self._kept.unkeep(name.repository, digest)
