"""Proof that bytes are what their descriptor says.

Storage completes a blob only against a `Verified`, and only a `Hasher` that has seen every byte makes one: an
unverified blob cannot become visible by a programming mistake.
"""

from __future__ import annotations

import hashlib
from dataclasses import InitVar, dataclass
from typing import Final, Self

from mirror.errors import DigestMismatch, SizeInvalid
from mirror.oci.descriptor import Descriptor
from mirror.oci.digest import Digest
from mirror.oci.sha256 import BLOCK, Hash, Sha256, is_available

_SEAL: Final = object()


@dataclass(frozen=True, slots=True)
class Verified:
    """The descriptor whose bytes were all seen and hashed to its digest. Made by `Hasher.finish` alone.

    The seal is not kept, so `dataclasses.replace` cannot carry one proof over to another descriptor.
    """

    descriptor: Descriptor
    seal: InitVar[object]

    def __post_init__(self, seal: object) -> None:
        if seal is not _SEAL:
            raise TypeError("only a Hasher makes a Verified")


class Hasher:
    """Hashes a blob's bytes in order and bounds them: one byte more than described is refused before it is hashed."""

    def __init__(self, descriptor: Descriptor) -> None:
        self.descriptor = descriptor
        self.seen = 0
        self._hash: Hash = Sha256() if _can_be_left(descriptor) else hashlib.new(descriptor.digest.algorithm)

    @classmethod
    def resumed(cls, descriptor: Descriptor, seen: int, midstate: bytes) -> Self:
        """Go on where another hasher of the same blob, perhaps on another machine, was at *seen* bytes.

        ValueError if no hash of this descriptor can be resumed so. The midstate is trusted like the bytes themselves:
        it comes from our own store.
        """
        if not _can_be_left(descriptor) or not 0 <= seen <= descriptor.size:
            raise ValueError(f"the hash of {descriptor} cannot be resumed at {seen}")
        hasher = cls(descriptor)
        hasher.seen = seen
        hasher._hash = Sha256.resumed(midstate, seen)
        return hasher

    def midstate(self) -> bytes | None:
        """What `resumed` needs; None inside a block of 64 bytes, or where this hash cannot be left (`oci.sha256`)."""
        return self._hash.midstate() if isinstance(self._hash, Sha256) and self.seen % BLOCK == 0 else None

    def update(self, chunk: bytes | bytearray | memoryview) -> None:
        """Raises SizeInvalid as soon as there are more bytes than the descriptor has."""
        view = memoryview(chunk)
        self.seen += view.nbytes
        if self.seen > self.descriptor.size:
            raise SizeInvalid(str(self.descriptor.digest), self.descriptor.size, f"at least {self.seen}")
        self._hash.update(view)

    def finish(self) -> Verified:
        """Raises SizeInvalid if bytes are missing, DigestMismatch if they are not the described ones."""
        want = self.descriptor
        if self.seen != want.size:
            raise SizeInvalid(str(want.digest), want.size, self.seen)
        actual = Digest(want.digest.algorithm, self._hash.hexdigest())
        if actual != want.digest:
            raise DigestMismatch(str(want.digest), str(actual))
        return Verified(want, _SEAL)


def verify(content: bytes, descriptor: Descriptor) -> Verified:
    """Check content that is small enough to be whole in memory: a manifest or a config."""
    hasher = Hasher(descriptor)
    hasher.update(content)
    return hasher.finish()


def _can_be_left(descriptor: Descriptor) -> bool:
    return descriptor.digest.algorithm == "sha256" and is_available()
