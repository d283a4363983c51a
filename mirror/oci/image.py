"""A whole image: its manifests in the order in which they may be written, and the blobs they need."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Self

from mirror.errors import SizeInvalid
from mirror.oci.descriptor import Descriptor, require_size
from mirror.oci.digest import Digest
from mirror.oci.index import Index
from mirror.oci.manifest import Manifest
from mirror.oci.platform import Platform


@dataclass(frozen=True, slots=True)
class ManifestContent:
    """A manifest's or index's exact bytes, what they say, and their descriptor."""

    descriptor: Descriptor
    body: bytes
    parsed: Manifest | Index


@dataclass(frozen=True, slots=True)
class LeftOut:
    """An entry of an index that the mirror does not hold, and why."""

    descriptor: Descriptor
    reason: str


@dataclass(frozen=True, slots=True)
class Image:
    """``manifests`` are children first, the root last, each once; the root alone is what a tag points at.

    ``left_out`` are entries of its indexes that are not held. Readers take such an index as a sparse one.
    """

    manifests: tuple[ManifestContent, ...]
    left_out: tuple[LeftOut, ...] = ()

    @property
    def root(self) -> ManifestContent:
        return self.manifests[-1]

    @property
    def split(self) -> tuple[list[ManifestContent], list[ManifestContent]]:
        """The manifests, which stand alone, and the indexes, each behind what it needs."""
        indexes = [found for found in self.manifests if isinstance(found.parsed, Index)]
        return [found for found in self.manifests if not isinstance(found.parsed, Index)], indexes

    @property
    def digest(self) -> Digest:
        return self.root.descriptor.digest

    @property
    def blobs(self) -> tuple[Descriptor, ...]:
        """Configs and layers that are distributable, each digest once, in the order of the manifests.

        The optional blobs stand at the end. Raises SizeInvalid if two manifests disagree about the size of a blob.
        """
        return (*self._required_blobs(), *self.optional_blobs)

    @property
    def optional_blobs(self) -> tuple[Descriptor, ...]:
        """Entries of indexes with an unknown media type, which are held as plain blobs where they can be had."""
        others = [other for index in self.split[1] if isinstance(index.parsed, Index) for other in index.parsed.others]
        passed_over = {manifest.descriptor.digest for manifest in self.manifests} | self._left_out_digests()
        if others:
            passed_over |= {blob.digest for blob in self._required_blobs()}
        found: dict[Digest, Descriptor] = {}
        for other in others:
            if other.digest not in passed_over:
                found.setdefault(other.digest, other)
        return tuple(found.values())

    @property
    def absent_children(self) -> tuple[Descriptor, ...]:
        """The children of its indexes that are not among its manifests: it is a sparse one."""
        held = {manifest.descriptor.digest for manifest in self.manifests}
        indexes = [index.parsed for index in self.split[1] if isinstance(index.parsed, Index)]
        return tuple(child for index in indexes for child in index.children if child.digest not in held)

    def leaving_out(self, entries: Iterable[LeftOut]) -> Self:
        """The image without these entries of its indexes."""
        return replace(self, left_out=(*self.left_out, *entries))

    @property
    def foreign_layers(self) -> tuple[Descriptor, ...]:
        """The layers that stay with their publisher: no registry distributes them."""
        return merge_by_digest(d for d in self._all_blobs() if d.is_foreign_layer)

    @property
    def sizes(self) -> dict[Digest, int]:
        """Bytes of everything the image needs in the bucket: blobs and manifests."""
        manifests = {m.descriptor.digest: m.descriptor.size for m in self.manifests}
        return manifests | {d.digest: d.size for d in self.blobs}

    def require_bounded(self) -> None:
        """Raise SizeInvalid if all distinct blobs together are larger than any image may be."""
        require_size("image", str(self.digest), sum(blob.size for blob in self.blobs))

    @property
    def platforms(self) -> tuple[Platform, ...]:
        """The platforms an index names, without attestations and entries that are not held.

        Empty for a single manifest, whose config tells its platform.
        """
        absent = self._left_out_digests()
        found = {
            child.platform
            for manifest in self.manifests
            if isinstance(manifest.parsed, Index)
            for child in manifest.parsed.children
            if child.platform and not child.platform.is_unknown and child.digest not in absent
        }
        return tuple(sorted(found))

    def _required_blobs(self) -> tuple[Descriptor, ...]:
        return merge_by_digest(d for d in self._all_blobs() if not d.is_foreign_layer)

    def _left_out_digests(self) -> set[Digest]:
        return {entry.descriptor.digest for entry in self.left_out}

    def _all_blobs(self) -> Iterable[Descriptor]:
        for manifest in self.manifests:
            yield from manifest.parsed.blobs


def merge_by_digest(descriptors: Iterable[Descriptor]) -> tuple[Descriptor, ...]:
    """Each digest once, the first descriptor standing for it, or the first that carries the content itself.

    Raises SizeInvalid if two give it different sizes.
    """
    merged: dict[Digest, Descriptor] = {}
    for descriptor in descriptors:
        known = merged.setdefault(descriptor.digest, descriptor)
        if known.size != descriptor.size:
            raise SizeInvalid(str(descriptor.digest), known.size, descriptor.size)
        if known.data is None and descriptor.data is not None:
            merged[descriptor.digest] = descriptor
    return tuple(merged.values())
