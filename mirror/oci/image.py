"""A whole image: its manifests, in the order in which they may be written, and the blobs that they need."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Self

from mirror.errors import SizeInvalid
from mirror.oci.descriptor import Descriptor, require_size
from mirror.oci.digest import Digest
from mirror.oci.manifest import Index, Manifest
from mirror.oci.platform import Platform


@dataclass(frozen=True, slots=True)
class ManifestContent:
    """The exact bytes of a manifest or index, with their descriptor and their parsed value."""

    descriptor: Descriptor
    body: bytes
    parsed: Manifest | Index


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A part of an image that the mirror does not hold: an entry of an index, or a foreign layer.

    ``code`` is that of the error that was the cause, if there was one.
    """

    descriptor: Descriptor
    reason: str
    code: str | None = None


@dataclass(frozen=True, slots=True)
class Image:
    """The manifests and blobs below the root, to which a tag points.

    ``manifests`` has each manifest once, children before parents, the root last. ``left_out`` are entries of its
    indexes and foreign layers that the mirror does not hold. To a reader, an index with such an entry is sparse.
    """

    manifests: tuple[ManifestContent, ...]
    left_out: tuple[LeftOut, ...] = ()

    @property
    def root(self) -> ManifestContent:
        return self.manifests[-1]

    @property
    def split(self) -> tuple[list[ManifestContent], list[ManifestContent]]:
        """The manifests, and the indexes. Each index follows the indexes that it lists."""
        indexes = [found for found in self.manifests if isinstance(found.parsed, Index)]
        return [found for found in self.manifests if not isinstance(found.parsed, Index)], indexes

    @property
    def digest(self) -> Digest:
        return self.root.descriptor.digest

    @property
    def blobs(self) -> tuple[Descriptor, ...]:
        """All configs and layers that are not left out, in the order of the manifests, each once.

        Foreign layers follow the others. Optional blobs are last. Raises SizeInvalid if two manifests disagree about
        the size of a blob.
        """
        return (*self._required_blobs(), *self.optional_blobs)

    @property
    def optional_blobs(self) -> tuple[Descriptor, ...]:
        """Entries of indexes with an unknown media type. The mirror holds them as blobs if the source has them."""
        entries = [entry for index in self._indexes() for entry in index.unknown_entries]
        if not entries:
            return ()
        known = {manifest.descriptor.digest for manifest in self.manifests} | self._left_out_digests()
        known |= {blob.digest for blob in self._required_blobs()}
        found: dict[Digest, Descriptor] = {}
        for entry in entries:
            if entry.digest not in known:
                found.setdefault(entry.digest, entry)
        return tuple(found.values())

    @property
    def absent_children(self) -> tuple[Descriptor, ...]:
        """The children of its indexes that are not among its manifests, because the image is sparse."""
        held = {manifest.descriptor.digest for manifest in self.manifests}
        return tuple(child for index in self._indexes() for child in index.children if child.digest not in held)

    def leaving_out(self, entries: Iterable[LeftOut]) -> Self:
        """Return the image without these entries of its indexes, or foreign layers."""
        return replace(self, left_out=(*self.left_out, *entries))

    @property
    def foreign_layers(self) -> tuple[Descriptor, ...]:
        """All layers of a foreign media type, also those that are left out.

        A layer that another manifest lists with an ordinary type is none of them. Raises SizeInvalid as `blobs` does.
        """
        found = merge_by_digest(blob for blob in self._all_blobs() if blob.is_foreign_layer)
        if not found:
            return ()
        ordinary = {blob.digest: blob.size for blob in self._all_blobs() if not blob.is_foreign_layer}
        for layer in found:
            if (size := ordinary.get(layer.digest, layer.size)) != layer.size:
                raise SizeInvalid(str(layer.digest), size, layer.size)
        return tuple(layer for layer in found if layer.digest not in ordinary)

    @property
    def sizes(self) -> dict[Digest, int]:
        """The bytes of each blob and manifest that the image needs in the bucket."""
        manifests = {m.descriptor.digest: m.descriptor.size for m in self.manifests}
        return manifests | {d.digest: d.size for d in self.blobs}

    def require_bounded(self) -> None:
        """Raise SizeInvalid if all distinct blobs together have more than `MAX_SIZE` bytes."""
        require_size("image", str(self.digest), sum(blob.size for blob in self.blobs))

    @property
    def platforms(self) -> tuple[Platform, ...]:
        """The platforms of its indexes, sorted, without attestations and entries that are not held.

        The descriptor of a manifest may name one that its index does not. Empty for a single manifest: its platform is
        in its config.
        """
        absent = self._left_out_digests()
        found = {
            child.platform
            for index in self._indexes()
            for child in index.children
            if child.platform and not child.platform.is_unknown and child.digest not in absent
        }
        if isinstance(self.root.parsed, Index):
            learned = (content.descriptor.platform for content in self.manifests)
            found |= {platform for platform in learned if platform and not platform.is_unknown}
        return tuple(sorted(found))

    def _required_blobs(self) -> tuple[Descriptor, ...]:
        absent = self._left_out_digests()
        ordinary = merge_by_digest(blob for blob in self._all_blobs() if not blob.is_foreign_layer)
        return (*ordinary, *(layer for layer in self.foreign_layers if layer.digest not in absent))

    def _indexes(self) -> list[Index]:
        return [found.parsed for found in self.manifests if isinstance(found.parsed, Index)]

    def _left_out_digests(self) -> set[Digest]:
        return {entry.descriptor.digest for entry in self.left_out}

    def _all_blobs(self) -> Iterable[Descriptor]:
        for manifest in self.manifests:
            yield from manifest.parsed.blobs


def merge_by_digest(descriptors: Iterable[Descriptor]) -> tuple[Descriptor, ...]:
    """Keep one descriptor per digest: the first, with content and URLs of others where it has none itself.

    Raises SizeInvalid if two descriptors of a digest have different sizes.
    """
    merged: dict[Digest, Descriptor] = {}
    for descriptor in descriptors:
        known = merged.setdefault(descriptor.digest, descriptor)
        if known.size != descriptor.size:
            raise SizeInvalid(str(descriptor.digest), known.size, descriptor.size)
        data = descriptor.data if known.data is None else known.data
        urls = known.urls or descriptor.urls
        if (data, urls) != (known.data, known.urls):
            merged[descriptor.digest] = replace(known, data=data, urls=urls)
    return tuple(merged.values())
