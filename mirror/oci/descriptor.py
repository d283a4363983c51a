"""The descriptor: how a manifest refers to a blob or to another manifest."""

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
"""The most bytes of a blob, and of all blobs of an image. A sum of a thousand of these is exact in Lua and JSON."""


@dataclass(frozen=True, slots=True)
class Descriptor:
    """Media type, digest and size in bytes of one piece of content (image spec, descriptor.md).

    ``data`` is the content itself in base64, if the descriptor embeds it. It is checked only when it is used. The media
    type of an entry of an index may be empty. ``attested`` is the manifest that an attestation of BuildKit is about.
    ``urls`` are where the publisher of a foreign layer serves it. Other descriptors have none.
    """

    media_type: str
    digest: Digest
    size: int
    platform: Platform | None = None
    data: str | None = field(default=None, repr=False, compare=False)
    attested: Digest | None = None
    urls: tuple[str, ...] = field(default=(), repr=False, compare=False)

    @property
    def is_foreign_layer(self) -> bool:
        return is_foreign_layer(self.media_type)

    def inline_content(self) -> bytes | None:
        """Return the embedded content, or None if there is none of this size and digest."""
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


def is_foreign_layer(media_type: str) -> bool:
    """Whether registries do not distribute layers of this type to everybody (image spec, layer.md)."""
    return media_type.startswith(media_types.FOREIGN_LAYER_PREFIXES)


def require_size(what: str, name: str, size: float) -> None:
    """Raise SizeInvalid if *size* is not between 0 and `MAX_SIZE`. *what* and *name* say what has this size."""
    if not 0 <= size <= MAX_SIZE:
        raise SizeInvalid(name, f"0 to {MAX_SIZE}", quoted(str(size), 40)[1:-1], what=what)
