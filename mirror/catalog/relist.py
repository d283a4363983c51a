"""Relist a tag: make the index show of it what the bucket shows."""

from __future__ import annotations

from mirror.catalog.entry import ImageEntry
from mirror.catalog.index import CatalogIndex
from mirror.catalog.reader import CatalogReader
from mirror.catalog.tag_change import TagChanges
from mirror.errors import ImageNotHeld
from mirror.oci.digest import Digest
from mirror.oci.local_image import LocalImage
from mirror.storage.provenance import ProvenanceStore


class Relister:
    """Corrects entries of the index. Safe to share between threads."""

    def __init__(
        self, changes: TagChanges, reader: CatalogReader, index: CatalogIndex, provenance: ProvenanceStore
    ) -> None:
        self._changes = changes
        self._reader = reader
        self._index = index
        self._provenance = provenance

    def relist(self, target: LocalImage) -> None:
        """List the tag as the bucket has it, or remove it from the index. Raises TagBusy."""
        with self._changes.lock(target):
            self.relist_locked(target, self._changes.current(target))

    def relist_unless_listed(self, target: LocalImage, shown: Digest) -> None:
        """Relist the tag unless the index has *shown* for it. Raises TagBusy."""
        listed = self._index.entry(target.repository, str(target.tag))
        if listed is None or listed.digest != str(shown):
            self.relist(target)

    def relist_locked(self, target: LocalImage, current: Digest | None) -> None:
        """As `relist`, for a caller that holds the tag's lease and read that the tag shows *current*."""
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
        summary = (origin and origin.summary) or self._reader.summarize(image)
        self._index.put(ImageEntry.of(target, image.digest, summary, origin), summary.sizes)
