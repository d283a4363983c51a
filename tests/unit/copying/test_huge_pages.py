from __future__ import annotations

import re
from pathlib import Path

import pytest

from mirror.copying.memory import HUGE_PAGE, address, new_buffer

_MIB = 2**20
_HAS_THEM = Path("/sys/kernel/mm/transparent_hugepage").exists()


@pytest.mark.parametrize(
    "size", [1, 4096, HUGE_PAGE, 2 * HUGE_PAGE - 1, 2 * HUGE_PAGE, 5_000_003, 16 * _MIB, 16 * _MIB + 1]
)
def test_a_buffer_has_the_size_asked_for_and_keeps_what_is_written(size: int) -> None:
    buffer = new_buffer(size)
    assert len(buffer) == size
    view = memoryview(buffer)
    view[0], view[-1] = 1, 2
    assert (view[0], view[-1]) == ((2, 2) if size == 1 else (1, 2))


@pytest.mark.skipif(not _HAS_THEM, reason="this kernel has no transparent huge pages")
def test_a_large_buffer_begins_at_a_huge_page_and_asks_for_them_as_far_as_it_reaches() -> None:
    buffer = new_buffer(16 * _MIB)
    begin = address(buffer)
    assert begin % HUGE_PAGE == 0
    assert _advised(begin)
    assert _advised(begin + 16 * _MIB - 1)
    assert not _advised(begin + 16 * _MIB)


def _advised(at: int) -> bool:
    """Whether the mapping around the address has the flag ``hg`` (proc_pid_smaps(5))."""
    for mapping in re.split(r"^(?=[0-9a-f]+-[0-9a-f]+ )", Path("/proc/self/smaps").read_text(), flags=re.MULTILINE):
        bounds = re.match(r"([0-9a-f]+)-([0-9a-f]+) ", mapping)
        if bounds and int(bounds[1], 16) <= at < int(bounds[2], 16):
            flags = re.search(r"^VmFlags: (.*)$", mapping, re.MULTILINE)
            return flags is not None and "hg" in flags[1].split()
    return False
