"""Free memory that is as fast as it will ever be: touched before, and not given back to a host.

The first touch of memory that a virtual machine has never used, or has given back to its host (free page reporting,
Documentation/mm/free_page_reporting.rst), was measured at up to 2 s per GB, and it meets whichever copy is next. So the
benchmark takes what a copy will need, touches it and frees it again, but for one page in 128: what lies between those
is too small to be reported, which is done by blocks of 2 MiB, and is what the kernel hands out first.

So held, it is also too broken for huge pages, which a machine that is not being benchmarked has. Some of them are
therefore touched and freed right before each copy (`freed_in_huge_pages`): reporting begins two seconds later.
"""

from __future__ import annotations

import mmap
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

_STRIDE: Final = 128 * mmap.PAGESIZE
_MIB: Final = 1024 * 1024
_SHARE: Final = 0.6
"""Of what is available; source, contenders and their servers need the rest."""


@contextmanager
def warmed(wanted: int) -> Iterator[None]:
    """Hold *wanted* bytes of free memory warm for the block, or less where there is less."""
    size = min(wanted, int(_available() * _SHARE)) // _STRIDE * _STRIDE
    if size <= 0:
        yield
        return
    with mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        memory.madvise(mmap.MADV_NOHUGEPAGE)
        touch = b"\1" * _MIB
        for start in range(0, size, _MIB):
            memory[start : start + _MIB] = touch[: size - start]
        for start in range(0, size, _STRIDE):
            memory.madvise(mmap.MADV_DONTNEED, start + mmap.PAGESIZE, _STRIDE - mmap.PAGESIZE)
        yield


def freed_in_huge_pages(size: int) -> None:
    """Touch *size* bytes in huge pages, and free them."""
    with mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        memory.madvise(mmap.MADV_HUGEPAGE)
        for start in range(0, size, mmap.PAGESIZE):
            memory[start] = 1


def _available() -> int:
    found = re.search(r"^MemAvailable:\s*(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE)
    return int(found.group(1)) * 1024 if found else 0
