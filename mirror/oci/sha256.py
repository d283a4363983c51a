"""SHA-256 that can be left and taken up again, which hashlib's cannot.

What is between two blocks is eight words, the midstate (FIPS 180-4, 6.2.2: the intermediate hash value), so a hash that
reached a multiple of 64 bytes goes on anywhere from 32 bytes and the count. OpenSSL's `SHA256_CTX` lies open (sha.h:
``h[8] Nl Nh data[16] num md_len``), and the libcrypto that Python itself links is reached through `_hashlib`. ctypes
releases the GIL; measured as fast as hashlib.

A thread that hashes is to do no CRC: ISA-L's leaves the upper halves of the vector registers in use, and behind it
SHA-256's instructions, which know nothing of them, took 0.76 s of CPU per GB on an AMD EPYC where they take 0.56.
"""

from __future__ import annotations

import ctypes
import hashlib
import struct
from collections.abc import Callable
from functools import cache
from time import thread_time
from typing import Final, Protocol, Self

BLOCK: Final = 64
_PIECE: Final = 256 * 1024
"""What stays in a core's cache."""
_TRIAL: Final = 32 * 2**20
_TRIALS: Final = 3
_WORDS: Final = struct.Struct(">8I")


class Hash(Protocol):
    """What this and hashlib's hashes have in common."""

    def update(self, data: memoryview, /) -> None: ...
    def hexdigest(self) -> str: ...


class _Context(ctypes.Structure):
    _fields_ = (
        ("h", ctypes.c_uint32 * 8),
        ("bits_low", ctypes.c_uint32),
        ("bits_high", ctypes.c_uint32),
        ("data", ctypes.c_uint32 * 16),
        ("num", ctypes.c_uint),
        ("md_len", ctypes.c_uint),
    )


class Sha256:
    """A `Hash` with a midstate. Only where `is_available`."""

    def __init__(self) -> None:
        self._libcrypto = _libcrypto()
        self._context = _Context()
        self._at = ctypes.byref(self._context)
        self._libcrypto.SHA256_Init(self._at)

    @classmethod
    def resumed(cls, midstate: bytes, length: int) -> Self:
        """Go on behind *length* bytes, a multiple of 64, that ended in *midstate* (32 bytes); ValueError otherwise."""
        if length % BLOCK or len(midstate) != _WORDS.size:
            raise ValueError(f"no midstate of SHA-256: {len(midstate)} bytes at {length}")
        hash_ = cls()
        context = hash_._context
        context.h[:] = _WORDS.unpack(midstate)
        context.bits_high, context.bits_low = divmod(length * 8 & (2**64 - 1), 2**32)
        return hash_

    def update(self, data: memoryview, /) -> None:
        if data.nbytes > _PIECE and gains_by_copying():
            self.update_by_copying(data)
        else:
            self.update_in_place(data)

    def update_in_place(self, data: memoryview) -> None:
        """Hash the bytes where they are; those that cannot be written to are copied first, since ctypes takes none."""
        if data.nbytes:
            writable = bytearray(data) if data.readonly else data
            self._libcrypto.SHA256_Update(self._at, ctypes.byref(ctypes.c_char.from_buffer(writable)), data.nbytes)

    def update_by_copying(self, data: memoryview) -> None:
        """Copy each piece into the cache and hash it there."""
        near = memoryview(bytearray(min(data.nbytes, _PIECE)))
        for start in range(0, data.nbytes, _PIECE):
            piece = data[start : start + _PIECE]
            near[: piece.nbytes] = piece
            self.update_in_place(near[: piece.nbytes])

    def midstate(self) -> bytes:
        """32 bytes to resume from; ValueError inside a block."""
        if self._context.num:
            raise ValueError("a midstate is between two blocks")
        return _WORDS.pack(*self._context.h)

    def hexdigest(self) -> str:
        ending = _Context.from_buffer_copy(self._context)
        digest = ctypes.create_string_buffer(hashlib.sha256().digest_size)
        self._libcrypto.SHA256_Final(digest, ctypes.byref(ending))
        return digest.raw.hex()


@cache
def is_available() -> bool:
    """Whether this Python's libcrypto can be reached and is laid out as its header says; tried, not believed."""
    first, rest = memoryview(bytearray(b"a" * BLOCK)), memoryview(bytearray(b"and the rest"))
    try:
        begun = Sha256()
        begun.update(first)
        ended = Sha256.resumed(begun.midstate(), BLOCK)
        ended.update(rest)
    except (ImportError, OSError, AttributeError, ValueError):
        return False
    return ended.hexdigest() == hashlib.sha256(bytes(first) + bytes(rest)).hexdigest()


def prepare() -> None:
    """Try all that is tried once: for a worker before it forks."""
    if is_available():
        gains_by_copying()


@cache
def gains_by_copying() -> bool:
    """Whether this processor hashes faster what was copied into its cache before; tried once, which takes 0.1 s.

    An Intel Xeon waits at the beginning of every page of 4 KiB, which a copy does not: 0.83 s of CPU per GB in place,
    0.61 by copying. An AMD EPYC does not wait: 0.56 in place, 0.62 by copying.
    """
    memory = memoryview(bytearray(b"\1") * _TRIAL)  # written to: the kernel gives one and the same page for all zeros
    ways = (Sha256.update_in_place, Sha256.update_by_copying)
    in_place, by_copying = (min(_seconds(way, memory) for _ in range(_TRIALS)) for way in ways)
    return by_copying < in_place


def _seconds(way: Callable[[Sha256, memoryview], None], memory: memoryview) -> float:
    begun = thread_time()
    way(Sha256(), memory)
    return thread_time() - begun


@cache
def _libcrypto() -> ctypes.CDLL:
    """Raises ImportError, OSError or AttributeError where it cannot be had."""
    import _hashlib  # noqa: PLC0415 - not every Python has it

    library = ctypes.CDLL(_hashlib.__file__)  # a symbol is also looked for in what the library links (dlsym(3))
    context = ctypes.POINTER(_Context)
    library.SHA256_Init.argtypes = (context,)
    library.SHA256_Update.argtypes = (context, ctypes.c_void_p, ctypes.c_size_t)
    library.SHA256_Final.argtypes = (ctypes.c_char_p, context)
    return library
