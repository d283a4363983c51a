"""Large buffers on huge pages, where the kernel gives them to who asks.

A buffer is written once and read three times (checksum, hash, socket), and in pages of 4 KiB each of its 4096 has to be
found again every time: measured 5 % of a copy's CPU. The kernel gives pages of 2 MiB by default to whoever advises so
(Documentation/admin-guide/mm/transhuge.rst); where it does not, the buffer is an ordinary one.
"""

from __future__ import annotations

import ctypes
import mmap
from typing import Final, cast

HUGE: Final = 2 * 2**20
"""Bytes in a huge page of x86-64, and of arm64 with pages of 4 KiB; with another size there is nothing to gain here."""
_LEAST: Final = 2 * HUGE
_ADVICE: Final = getattr(mmap, "MADV_HUGEPAGE", None)
_LIBC: Final = ctypes.CDLL(None)
_NEW_BYTEARRAY: Final = ctypes.pythonapi.PyByteArray_FromStringAndSize
_NEW_BYTEARRAY.argtypes, _NEW_BYTEARRAY.restype = (ctypes.c_char_p, ctypes.c_ssize_t), ctypes.py_object


def new_buffer(size: int) -> bytearray:
    """A bytearray of *size* bytes with anything in it.

    Not zeroed: ``bytearray(size)`` touches every page, 10 ms for a part, and lets no other thread run meanwhile. A
    bytearray, since it is all that boto3 sends without asking or copying; a mapping is a file to it.
    """
    if _ADVICE is None or size < _LEAST:
        return _unwritten(size)
    buffer = _unwritten(size + HUGE)
    del buffer[: -address(buffer) % HUGE]  # moves nothing: the front is left unused (bytearrayobject.c, ob_start)
    del buffer[size:]
    _LIBC.madvise(ctypes.c_void_p(address(buffer)), ctypes.c_size_t(size // HUGE * HUGE), _ADVICE)
    return buffer


def address(buffer: bytearray) -> int:
    """Where its first byte lies."""
    return ctypes.addressof(ctypes.c_char.from_buffer(buffer))


def _unwritten(size: int) -> bytearray:
    return cast("bytearray", _NEW_BYTEARRAY(None, size))
