"""Content digests: the identity of everything the mirror holds."""

from __future__ import annotations

import hashlib
import sys
from dataclasses import dataclass
from typing import Final, Self

from mirror.errors import InvalidDigest

HEX_LENGTH: Final = {"sha256": 64, "sha512": 128}
"""The algorithms the image spec registers, and how many hexadecimal digits each has."""


@dataclass(frozen=True, slots=True, order=True)
class Digest:
    """``algorithm:hex``, validated: safe to spell in a key or a URL (CVE-2024-3727 was a digest that was not)."""

    algorithm: str
    hex: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises InvalidDigest for anything but sha256 with 64 or sha512 with 128 lower-case hex digits."""
        algorithm, _, hex_ = text.partition(":")
        if len(hex_) != HEX_LENGTH.get(algorithm, -1) or hex_.strip("0123456789abcdef"):
            raise InvalidDigest(text)
        return cls(sys.intern(algorithm), hex_)  # one text for all: an image may have 100 000 digests

    @classmethod
    def of(cls, content: bytes, algorithm: str = "sha256") -> Self:
        return cls(algorithm, hashlib.new(algorithm, content).hexdigest())

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.hex}"
