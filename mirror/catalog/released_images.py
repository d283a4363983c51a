"""The images of a release: what they need in the bucket, and what lists show of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

from mirror.catalog.entry import ImageEntry
from mirror.catalog.index import CatalogIndex
from mirror.catalog.overwrite import FoundImage
from mirror.catalog.reader import CatalogReader
from mirror.catalog.relist import Relister
from mirror.catalog.tag_change import TagChange
from mirror.errors import ReleaseIncomplete
from mirror.locks.pins import Pins
from mirror.oci.digest import Digest
from mirror.oci.local_image import LocalImage
from mirror.records.rules import PLAIN_COPY, CopyOptions
from mirror.storage.blobs import BlobStore
from mirror.storage.links import LinkStore
from mirror.storage.provenance import ImageProvenance, ImageSummary, ProvenanceStore

_READERS: Final = 16
_READ_AT_ONCE: Final = 64
"""Images whose parts are in memory at a time."""


@dataclass(frozen=True, slots=True)
class StagedTag:
    """A tag that a release moves: its numbered change, the image that it will show, and the options of its copy."""

    change: TagChange
    found: FoundImage
    options: CopyOptions = PLAIN_COPY

    @property
    def digest(self) -> Digest:
        """What the tag will show."""
        return self.found.digest


class ReleasedImages:
    """Checks and lists staged images. Safe to share between threads."""

    def __init__(
        self,
        reader: CatalogReader,
        index: CatalogIndex,
        relister: Relister,
        *,
        blobs: BlobStore,
        links: LinkStore,
        provenance: ProvenanceStore,
        pins: Pins,
    ) -> None:
        self._reader = reader
        self._index = index
        self._relister = relister
        self._blobs = blobs
        self._links = links
        self._provenance = provenance
        self._pins = pins

    def require_held(self, holder: str, staged: Sequence[StagedTag], check: Callable[[], None]) -> None:
        """Pin all that the images need for *holder*, and look for it in the bucket, each digest once.

        *check* is called between batches, and may raise. Raises ReleaseIncomplete for the first part that is missing,
        or BlobBeingDeleted.
        """
        seen: set[Digest] = set()
        with ThreadPoolExecutor(_READERS, thread_name_prefix="staged") as pool:
            for begin in range(0, len(staged), _READ_AT_ONCE):
                check()
                batch = staged[begin : begin + _READ_AT_ONCE]
                users: dict[Digest, str] = {}
                sizes: dict[Digest, int] = {}
                for tag, needed in zip(batch, pool.map(self._needed, batch), strict=True):
                    sizes |= {digest: size for digest, size in needed.items() if digest not in seen}
                    users |= dict.fromkeys(needed, str(tag.change.target))
                self._pins.pin(holder, list(sizes))
                for digest, held in zip(sizes, pool.map(self._blobs.held, sizes), strict=True):
                    if held != sizes[digest]:
                        raise ReleaseIncomplete(users[digest], str(digest))
                seen |= sizes.keys()

    def made_from(self, target: LocalImage, digest: Digest) -> Digest:
        """Return the digest that the source had of an image of the target's repository."""
        return self._provenance.made_from(target.repository, digest)

    def put_entry(self, target: LocalImage, digest: Digest) -> None:
        """List the tag with the image *digest* as it was staged. The caller holds the tag's lease.

        An entry of the same digest and job is left as it is. It may know more sources that served the image.
        """
        summary, origin = self._described(target.repository, digest)
        entry = ImageEntry.of(target, digest, summary, origin)
        listed = self._index.entry(target.repository, str(target.tag))
        if listed is None or (listed.digest, listed.job) != (entry.digest, entry.job):
            self._index.put(entry, summary.sizes, is_checked=True)

    def relist(self, target: LocalImage, digest: Digest | None) -> None:
        """List the tag as the bucket has it, None if there is no such tag. The caller holds the tag's lease."""
        self._relister.relist_locked(target, digest)

    def _needed(self, tag: StagedTag) -> dict[Digest, int]:
        """Return the sizes of all that the image needs. Raises ReleaseIncomplete if the repository lost it."""
        target = tag.change.target
        if not self._links.has_revision(target.repository, tag.digest):
            raise ReleaseIncomplete(str(target), str(tag.digest))
        summary, _ = self._described(target.repository, tag.digest)
        return dict(summary.sizes)

    def _described(self, repository: str, digest: Digest) -> tuple[ImageSummary, ImageProvenance | None]:
        """Return what lists show of an image: from its record or, where that has no summary, from its manifests."""
        origin = self._provenance.image(repository, digest)
        if origin and origin.summary:
            return origin.summary, origin
        return self._reader.summarize(self._reader.image(LocalImage(repository, digest=digest))), origin
