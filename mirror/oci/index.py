"""An index: one name for several manifests, one per platform."""

from __future__ import annotations

from dataclasses import dataclass

from mirror.oci import media_types
from mirror.oci.descriptor import Descriptor


@dataclass(frozen=True, slots=True)
class Index:
    """An OCI index or Docker manifest list (image spec, image-index.md). It may hold other indexes, and be empty.

    BuildKit's cache indexes list plain blobs among ``manifests``: those are in ``blobs`` here, not in ``children``.
    """

    media_type: str
    manifests: tuple[Descriptor, ...]
    subject: Descriptor | None = None
    artifact_type: str = ""

    @property
    def children(self) -> tuple[Descriptor, ...]:
        return tuple(d for d in self.manifests if d.media_type in media_types.MANIFESTS | media_types.INDEXES)

    @property
    def blobs(self) -> tuple[Descriptor, ...]:
        return tuple(d for d in self.manifests if media_types.is_known_blob(d.media_type))
