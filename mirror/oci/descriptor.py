"""A descriptor: what a manifest says about a blob or another manifest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from mirror.errors import SizeInvalid, quoted
from mirror.oci import media_types
from mirror.oci.digest import Digest
from mirror.oci.platform import Platform

MAX_SIZE: Final = 2**40
"""Bytes of one blob, and of all blobs of one image. A sum of a thousand of these is exact in scripts and in JSON."""


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


def require_size(what: str, name: str, size: float) -> None:
    """Raise SizeInvalid for a *size* in bytes that no *what* of this *name* can have."""
    if not 0 <= size <= MAX_SIZE:
        raise SizeInvalid(name, f"0 to {MAX_SIZE}", quoted(str(size), 40)[1:-1], what=what)
