"""The digest of content: the identity of everything that the mirror holds."""

from __future__ import annotations

import hashlib
import sys
from dataclasses import dataclass
from typing import Final, Self

from mirror.errors import InvalidDigest

HEX_LENGTH: Final = {"sha256": 64, "sha512": 128}
"""The algorithms that the image spec registers, with their number of hexadecimal digits."""


@dataclass(frozen=True, slots=True, order=True)
class Digest:
    """``algorithm:hex``, validated, so that it is safe in a key or a URL.

    CVE-2024-3727 was about digests that were not validated.
    """

    algorithm: str
    hex: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse ``sha256:`` and 64 lower-case hex digits, or ``sha512:`` and 128. Raises InvalidDigest."""
        algorithm, _, hex_ = text.partition(":")
        if len(hex_) != HEX_LENGTH.get(algorithm, -1) or hex_.strip("0123456789abcdef"):
            raise InvalidDigest(text)
        return cls(sys.intern(algorithm), hex_)  # an image may have 100 000 digests

    @classmethod
    def of(cls, content: bytes, algorithm: str = "sha256") -> Self:
        return cls(algorithm, hashlib.new(algorithm, content).hexdigest())

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.hex}"
