"""Blobs for these tests: their bytes, their descriptor, and the proof that the bytes match it."""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import cache

from mirror.oci.descriptor import Descriptor
from mirror.oci.digest import Digest
from mirror.oci.verification import Verified, verify
from mirror.storage.uploads import Upload

PART = 5 * 2**20
"""S3's least part size. Only the last part may be smaller."""
_LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"


@dataclass(frozen=True, slots=True)
class Blob:
    content: bytes
    descriptor: Descriptor

    @property
    def proof(self) -> Verified:
        return verify(self.content, self.descriptor)

    def part(self, number: int) -> bytearray:
        return bytearray(self.content[(number - 1) * PART : number * PART])

    @property
    def part_numbers(self) -> range:
        return range(1, -(-len(self.content) // PART) + 1)


@cache
def blob(size: int, *, seed: int = 0, algorithm: str = "sha256") -> Blob:
    """Return *size* random bytes, the same for the same *seed*."""
    content = random.Random(f"{size}-{seed}").randbytes(size)
    return Blob(content, Descriptor(_LAYER, Digest.of(content, algorithm), size))


def send(upload: Upload, wanted: Blob) -> None:
    for number in wanted.part_numbers:
        upload.put_part(number, wanted.part(number))
