"""An index: one name for several manifests, one per platform."""

from __future__ import annotations

from dataclasses import dataclass

from mirror.oci import media_types
from mirror.oci.descriptor import Descriptor


@dataclass(frozen=True, slots=True)
class Index:
    """An OCI index or Docker manifest list (image spec, image-index.md). It may hold other indexes, and be empty.

    BuildKit's cache indexes list plain blobs among ``manifests``: those are in ``blobs`` here, not in ``children``.
    ``others`` have an unknown media type, or none. The image spec asks readers to ignore them.
    """

    media_type: str
    manifests: tuple[Descriptor, ...]
    subject: Descriptor | None = None
    artifact_type: str = ""

    @property
    def children(self) -> tuple[Descriptor, ...]:
        return tuple(d for d in self.manifests if d.media_type in media_types.MANIFESTS | media_types.INDEXES)

    @property
    def possible_manifests(self) -> tuple[Descriptor, ...]:
        """The children, and the entries without a media type: whether those are manifests shows when they are read."""
        return (*self.children, *(other for other in self.others if not other.media_type))

    @property
    def blobs(self) -> tuple[Descriptor, ...]:
        return tuple(d for d in self.manifests if media_types.is_known_blob(d.media_type))

    @property
    def others(self) -> tuple[Descriptor, ...]:
        known = {*self.children, *self.blobs}
        return tuple(d for d in self.manifests if d not in known)
