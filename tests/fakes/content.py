"""Blobs for the scripted registry: from memory, or made on the fly so that 1 GiB needs none."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Final, Protocol

from mirror.oci.digest import Digest

_BLOCK: Final = 1024 * 1024
_NUMBER: Final = 8


class Content(Protocol):
    """A blob's size, and its bytes from any place."""

    @property
    def size(self) -> int: ...
    def pieces(self, start: int, end: int) -> Iterator[bytes]: ...


@dataclass(frozen=True)
class Synthetic:
    """*size* bytes that follow from *seed*. Each block of 1 MiB carries its number, so that no two are alike and
    blocks in the wrong order have another digest.
    """

    size: int
    seed: str = "synthetic"

    def pieces(self, start: int, end: int) -> Iterator[bytes]:
        number, skip = divmod(start, _BLOCK)
        position = start
        while position < end:
            block = number.to_bytes(_NUMBER, "big") + self._rest
            piece = block[skip : skip + end - position]
            yield piece
            position += len(piece)
            number, skip = number + 1, 0

    @cached_property
    def digest(self) -> Digest:
        hasher = hashlib.sha256()
        for piece in self.pieces(0, self.size):
            hasher.update(piece)
        return Digest("sha256", hasher.hexdigest())

    @cached_property
    def _rest(self) -> bytes:
        return random.Random(self.seed).randbytes(_BLOCK - _NUMBER)
