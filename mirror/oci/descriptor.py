"""A descriptor: what a manifest says about a blob or another manifest."""

from __future__ import annotations

from dataclasses import dataclass

from mirror.oci import media_types
from mirror.oci.digest import Digest
from mirror.oci.platform import Platform


@dataclass(frozen=True, slots=True)
class Descriptor:
    """Media type, digest and size in bytes of one piece of content (image spec, descriptor.md)."""

    media_type: str
    digest: Digest
    size: int
    platform: Platform | None = None

    @property
    def is_foreign_layer(self) -> bool:
        return media_types.is_foreign_layer(self.media_type)

    def __str__(self) -> str:
        return str(self.digest)
