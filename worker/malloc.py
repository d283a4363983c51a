"""glibc's malloc, told to give a horse's large buffers back to the kernel.

By itself it learns from the first large buffer that is freed to serve such sizes from its heaps, which keep what lies
between two that are in use: measured 50 MiB beyond the memory budget for an image of many sizes of layers (mallopt(3),
"dynamic mmap threshold").
"""

from __future__ import annotations

import ctypes
from typing import Final

_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_M_ARENA_MAX: Final = -8
_SETTINGS: Final = {
    _M_MMAP_THRESHOLD: 512 * 2**10,  # above the pieces of 256 KiB that are hashed, which come and go all the time
    _M_TRIM_THRESHOLD: 2**20,
    _M_ARENA_MAX: 4,
}


def give_large_buffers_back() -> bool:
    """Whether this C library can be told; another one has habits of its own."""
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallopt"):
        return False
    return all(libc.mallopt(setting, value) == 1 for setting, value in _SETTINGS.items())
