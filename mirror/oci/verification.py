"""Proof that bytes are what their descriptor says.

The bucket completes a blob only with a `Verified`. Only a `Hasher` that has seen every byte makes one. So a bug cannot
make an unverified blob visible.
"""

from __future__ import annotations

import hashlib
from dataclasses import InitVar, dataclass
from typing import Final, Protocol, Self

from mirror.errors import DigestMismatch, SizeInvalid
from mirror.oci.descriptor import Descriptor
from mirror.oci.digest import Digest
from mirror.oci.sha256 import BLOCK, Sha256, is_available

_SEAL: Final = object()


@dataclass(frozen=True, slots=True)
class Verified:
    """A descriptor whose bytes were all seen and have its digest. Only `Hasher.finish` makes one.

    The seal is not stored. So `dataclasses.replace` cannot make a proof for another descriptor.
    """

    descriptor: Descriptor
    seal: InitVar[object]

    def __post_init__(self, seal: object) -> None:
        if seal is not _SEAL:
            raise TypeError("only a Hasher makes a Verified")


class _Hash(Protocol):
    """The methods that `Sha256` and hashlib's hashes share."""

    def update(self, data: memoryview, /) -> None: ...
    def hexdigest(self) -> str: ...


class Hasher:
    """Hashes the bytes of a blob in order. More bytes than the descriptor has are refused before they are hashed."""

    def __init__(self, descriptor: Descriptor) -> None:
        self.descriptor = descriptor
        self.seen = 0
        self._hash: _Hash = Sha256() if _can_be_resumed(descriptor) else hashlib.new(descriptor.digest.algorithm)

    @classmethod
    def resumed(cls, descriptor: Descriptor, seen: int, midstate: bytes) -> Self:
        """Return a hasher in the state that another one had after *seen* bytes of the same blob.

        The other one may have run on another machine. The midstate is trusted, because it comes from our own Redis.
        Raises ValueError if the hash of this descriptor cannot be resumed from these values.
        """
        if not _can_be_resumed(descriptor) or not 0 <= seen <= descriptor.size:
            raise ValueError(f"the hash of {descriptor} cannot be resumed at {seen}")
        hasher = cls(descriptor)
        hasher.seen = seen
        hasher._hash = Sha256.resumed(midstate, seen)
        return hasher

    def midstate(self) -> bytes | None:
        """Return what `resumed` needs. None inside a block of 64 bytes, or if this hash cannot be resumed."""
        return self._hash.midstate() if isinstance(self._hash, Sha256) and self.seen % BLOCK == 0 else None

    def update(self, chunk: bytes | bytearray | memoryview) -> None:
        """Hash the next bytes. Raises SizeInvalid if there are more bytes than the descriptor has."""
        view = memoryview(chunk)
        self.seen += view.nbytes
        if self.seen > self.descriptor.size:
            raise SizeInvalid(str(self.descriptor.digest), self.descriptor.size, f"at least {self.seen}")
        self._hash.update(view)

    def finish(self) -> Verified:
        """Return the proof. Raises SizeInvalid if bytes are missing, DigestMismatch if they are different."""
        want = self.descriptor
        if self.seen != want.size:
            raise SizeInvalid(str(want.digest), want.size, self.seen)
        actual = Digest(want.digest.algorithm, self._hash.hexdigest())
        if actual != want.digest:
            raise DigestMismatch(str(want.digest), str(actual))
        return Verified(want, _SEAL)


def verify(content: bytes, descriptor: Descriptor) -> Verified:
    """Verify content that is small enough for memory, such as a manifest or a config."""
    hasher = Hasher(descriptor)
    hasher.update(content)
    return hasher.finish()


def _can_be_resumed(descriptor: Descriptor) -> bool:
    return descriptor.digest.algorithm == "sha256" and is_available()
