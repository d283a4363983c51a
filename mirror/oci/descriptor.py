"""A descriptor: what a manifest says about a blob or another manifest."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass, field
from typing import Final

from mirror.errors import SizeInvalid, quoted
from mirror.oci import media_types
from mirror.oci.digest import Digest
from mirror.oci.platform import Platform

MAX_SIZE: Final = 2**40
"""Bytes of one blob, and of all blobs of one image. A sum of a thousand of these is exact in scripts and in JSON."""


@dataclass(frozen=True, slots=True)
class Descriptor:
    """Media type, digest and size in bytes of one piece of content (image spec, descriptor.md).

    ``data`` is the content itself in base64, where the descriptor carries it. It is checked only when it is used.
    An entry of an index may have an empty media type.
    """

    media_type: str
    digest: Digest
    size: int
    platform: Platform | None = None
    data: str | None = field(default=None, repr=False, compare=False)

    @property
    def is_foreign_layer(self) -> bool:
        return media_types.is_foreign_layer(self.media_type)

    def inline_content(self) -> bytes | None:
        """Return the content that the descriptor carries, if it has this size and digest. None otherwise."""
        if self.data is None:
            return None
        try:
            content = base64.b64decode(self.data, validate=True)
        except (binascii.Error, ValueError):
            return None
        matches = len(content) == self.size and Digest.of(content, self.digest.algorithm) == self.digest
        return content if matches else None

    def __str__(self) -> str:
        return str(self.digest)


def require_size(what: str, name: str, size: float) -> None:
    """Raise SizeInvalid for a *size* in bytes that no *what* of this *name* can have."""
    if not 0 <= size <= MAX_SIZE:
        raise SizeInvalid(name, f"0 to {MAX_SIZE}", quoted(str(size), 40)[1:-1], what=what)
