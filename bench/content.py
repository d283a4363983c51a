"""The bytes of a layer: a real tar in a real gzip, incompressible, the same for one seed, never whole in memory.

Real gzip because a tool that pushes compresses what is not, and random because what compresses would flatter some.
"""

from __future__ import annotations

import hashlib
import tarfile
import zlib
from collections.abc import Iterator
from typing import Final

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from bench.shapes import LayerSpec

_BLOCK: Final = 1024 * 1024
_STORED: Final = 0
_GZIP: Final = 31


def gzipped(spec: LayerSpec, diff_id: hashlib._Hash) -> Iterator[bytes]:
    """The layer piece by piece; *diff_id* hashes what is inside the gzip."""
    packer = zlib.compressobj(_STORED, wbits=_GZIP)
    for piece in _tar(spec):
        diff_id.update(piece)
        if packed := packer.compress(piece):
            yield packed
    yield packer.flush()


def _tar(spec: LayerSpec) -> Iterator[bytes]:
    entry = tarfile.TarInfo(f"data/{spec.seed}")
    entry.size = spec.size
    yield entry.tobuf(tarfile.PAX_FORMAT)
    yield from _random(spec)
    padding = -spec.size % tarfile.BLOCKSIZE
    yield b"\0" * (padding + 2 * tarfile.BLOCKSIZE)


def _random(spec: LayerSpec) -> Iterator[bytes]:
    """AES in counter mode over zeros: random to every compressor, and faster than the disk."""
    key = hashlib.sha256(spec.seed.encode()).digest()
    stream = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor()
    left = spec.size
    while left:
        piece = stream.update(bytes(min(left, _BLOCK)))
        left -= len(piece)
        yield piece
