"""A SHA-256 that can be saved and resumed on another machine. hashlib's cannot.

Between two blocks, the state of the hash is eight words, the midstate (FIPS 180-4, 6.2.2: the intermediate hash value).
So a hash after a multiple of 64 bytes can be resumed from 32 bytes and the count. OpenSSL's struct `SHA256_CTX` is
public (sha.h: ``h[8] Nl Nh data[16] num md_len``). The libcrypto that Python itself links is found through `_hashlib`.
ctypes releases the GIL. This hash was measured to be as fast as hashlib's.

A thread that hashes must not compute a CRC with ISA-L. ISA-L leaves the upper halves of the vector registers in use,
which slows down the instructions of SHA-256: 0.76 s of CPU per GB on an AMD EPYC, instead of 0.56 s.
"""

from __future__ import annotations

import ctypes
import hashlib
import struct
from collections.abc import Callable
from functools import cache
from time import thread_time
from typing import Final, Self

BLOCK: Final = 64
"""Bytes of a block of SHA-256."""
_PIECE: Final = 256 * 1024
"""Bytes that fit into the cache of a core."""
_TRIAL: Final = 32 * 2**20
_TRIALS: Final = 3
_WORDS: Final = struct.Struct(">8I")


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
    """A hash with a midstate. Use it only if `is_available`."""

    def __init__(self) -> None:
        self._libcrypto = _libcrypto()
        self._context = _Context()
        self._at = ctypes.byref(self._context)
        self._libcrypto.SHA256_Init(self._at)

    @classmethod
    def resumed(cls, midstate: bytes, length: int) -> Self:
        """Return a hash that has seen *length* bytes and has this midstate.

        Raises ValueError if *length* is not a multiple of 64, or *midstate* does not have 32 bytes.
        """
        if length % BLOCK or len(midstate) != _WORDS.size:
            raise ValueError(f"not a midstate of SHA-256: {len(midstate)} bytes at {length}")
        hash_ = cls()
        context = hash_._context
        context.h[:] = _WORDS.unpack(midstate)
        context.bits_high, context.bits_low = divmod(length * 8 & (2**64 - 1), 2**32)
        return hash_

    def update(self, data: memoryview, /) -> None:
        if data.nbytes > _PIECE and is_faster_by_copying():
            self.update_by_copying(data)
        else:
            self.update_in_place(data)

    def update_in_place(self, data: memoryview) -> None:
        """Hash the bytes where they are. A read-only buffer is copied first, because ctypes does not accept it."""
        if data.nbytes:
            writable = bytearray(data) if data.readonly else data
            self._libcrypto.SHA256_Update(self._at, ctypes.byref(ctypes.c_char.from_buffer(writable)), data.nbytes)

    def update_by_copying(self, data: memoryview) -> None:
        """Copy each piece into the processor's cache, and hash it there."""
        cached = memoryview(bytearray(min(data.nbytes, _PIECE)))
        for start in range(0, data.nbytes, _PIECE):
            piece = data[start : start + _PIECE]
            cached[: piece.nbytes] = piece
            self.update_in_place(cached[: piece.nbytes])

    def midstate(self) -> bytes:
        """Return 32 bytes to resume from. Raises ValueError inside a block."""
        if self._context.num:
            raise ValueError("a midstate exists only between two blocks")
        return _WORDS.pack(*self._context.h)

    def hexdigest(self) -> str:
        final = _Context.from_buffer_copy(self._context)
        digest = ctypes.create_string_buffer(hashlib.sha256().digest_size)
        self._libcrypto.SHA256_Final(digest, ctypes.byref(final))
        return digest.raw.hex()


@cache
def is_available() -> bool:
    """Whether this Python's libcrypto is found and its struct has the expected layout. Hashes something to find out."""
    first, rest = memoryview(bytearray(b"a" * BLOCK)), memoryview(bytearray(b"and the rest"))
    try:
        saved = Sha256()
        saved.update(first)
        resumed = Sha256.resumed(saved.midstate(), BLOCK)
        resumed.update(rest)
    except (ImportError, OSError, AttributeError, ValueError):
        return False
    return resumed.hexdigest() == hashlib.sha256(bytes(first) + bytes(rest)).hexdigest()


def warm_up() -> None:
    """Fill the caches of this module. A worker calls it before it forks."""
    if is_available():
        is_faster_by_copying()


@cache
def is_faster_by_copying() -> bool:
    """Whether this processor hashes faster if the bytes are copied into its cache first. Measures it once, in 0.1 s.

    An Intel Xeon waits at the start of every page of 4 KiB, but not while it copies: 0.83 s of CPU per GB in place,
    0.61 s by copying. An AMD EPYC does not wait: 0.56 s in place, 0.62 s by copying.
    """
    memory = memoryview(bytearray(b"\1") * _TRIAL)  # not zeros, for which the kernel maps one page many times
    ways = (Sha256.update_in_place, Sha256.update_by_copying)
    in_place, by_copying = (min(_seconds(way, memory) for _ in range(_TRIALS)) for way in ways)
    return by_copying < in_place


def _seconds(way: Callable[[Sha256, memoryview], None], memory: memoryview) -> float:
    started = thread_time()
    way(Sha256(), memory)
    return thread_time() - started


@cache
def _libcrypto() -> ctypes.CDLL:
    """Load the libcrypto that Python links. Raises ImportError, OSError or AttributeError."""
    import _hashlib  # noqa: PLC0415 - not every Python has it

    library = ctypes.CDLL(_hashlib.__file__)  # dlsym(3) also searches the libraries that this one links
    context = ctypes.POINTER(_Context)
    library.SHA256_Init.argtypes = (context,)
    library.SHA256_Update.argtypes = (context, ctypes.c_void_p, ctypes.c_size_t)
    library.SHA256_Final.argtypes = (ctypes.c_char_p, context)
    return library
