"""Delete a name: a tag, or what keeps an image by its digest. Blobs stay for the garbage collector."""

from __future__ import annotations

from mirror.catalog.index import CatalogIndex
from mirror.catalog.reader import CatalogReader
from mirror.catalog.tag_change import COMMIT_TIMEOUT, Precondition, TagChanges, require_allowed
from mirror.errors import ImageNotHeld, ManifestInUse
from mirror.oci.digest import Digest
from mirror.oci.local_image import LocalImage
from mirror.storage.disk import LocalDisk
from mirror.storage.links import KeptStore, LinkStore


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
    ) -> None:
        self._disk = disk
        self._changes = changes
        self._reader = reader
        self._index = index
        self._links = links
        self._kept = kept

    def delete(self, name: LocalImage, *, allowed: Precondition) -> None:
        """Delete a tag, or keep a digest no longer. What other tags need stays.

        Raises ImageNotHeld, PreconditionFailed, TagBusy, or ManifestInUse for a digest that a tag shows.
        """
        if name.digest is None:
            self._delete_tag(name, allowed)
        else:
            self._unkeep(name, name.digest, allowed)

    def _delete_tag(self, target: LocalImage, allowed: Precondition) -> None:
        """Delete a tag and its history. A copy that asked its source earlier does not bring the tag back."""
        repository, tag = target.repository, str(target.tag)
        [change] = self._changes.take_numbers([(target, "delete")])
        with self._changes.lock(target) as lease:
            current = self._changes.current(target)
            if current is None:
                raise ImageNotHeld(str(target))
            require_allowed(target, current, allowed)
            with self._changes.changing(change, lease, None):
                self._links.delete_tag(repository, tag, timeout=COMMIT_TIMEOUT)
            self._index.remove(repository, tag)
            self._changes.record([change])
            self._links.delete_history(repository, tag)
        self._disk.sync()

    def _unkeep(self, name: LocalImage, digest: Digest, allowed: Precondition) -> None:
        """Keep a digest no longer. No lease is needed: a tag that is pointed at it meanwhile protects the image."""
        require_allowed(name, self._reader.digest(name), allowed)
        showing, _ = self._index.images(
            limit=1, repository=name.repository, wanted=lambda entry: entry.digest == str(digest)
        )
        if showing:
            raise ManifestInUse(str(name), f"the tag '{showing[0].tag}'")
        self._kept.unkeep(name.repository, digest)
