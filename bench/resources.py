"""CPU time and memory of process trees, and warm memory for fair measurements."""

from __future__ import annotations

import mmap
import os
import re
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Final, Self

_TICKS: Final = os.sysconf("SC_CLK_TCK")
_SAMPLE_EVERY: Final = 0.5
"""Seconds between two samples. One costs 8 ms of CPU for a full worker, because the kernel walks every page."""
_KIB: Final = 1024
_MIB: Final = 1024 * 1024
_STRIDE: Final = 128 * mmap.PAGESIZE
_WARM_SHARE: Final = 0.6
"""Share of the available memory to warm. Source, tools and their servers need the rest."""


def process_tree(root: int) -> list[int]:
    """Return *root* and all its descendants that run now."""
    found, unvisited = [], [root]
    while unvisited:
        pid = unvisited.pop()
        found.append(pid)
        unvisited += _children(pid)
    return found


def cpu_seconds(roots: Iterable[int]) -> float:
    """Return the user and system time of these trees, also of ended children.

    A child that ends between two readings adds its time to its parent (``cutime``), so the difference is right.
    """
    ticks = 0
    for pid in (pid for root in roots for pid in process_tree(root)):
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        ticks += sum(map(int, fields[11:15]))
    return ticks / _TICKS


def proportional_bytes(roots: Iterable[int]) -> int:
    """Return the memory of these trees in bytes, as PSS.

    PSS counts once what a worker and its work horse share.
    """
    return sum(_pss(pid) for root in roots for pid in process_tree(root))


@dataclass(slots=True)
class PeakMemory:
    """Samples the memory of groups of process trees twice a second."""

    groups: Callable[[], dict[str, list[int]]]
    peaks: dict[str, int] = field(default_factory=dict)
    _stopped: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._sample, name="memory")
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stopped.set()
        if self._thread:
            self._thread.join()

    def _sample(self) -> None:
        while True:
            for name, roots in self.groups().items():
                self.peaks[name] = max(self.peaks.get(name, 0), proportional_bytes(roots))
            if self._stopped.wait(_SAMPLE_EVERY):
                return


def _children(pid: int) -> list[int]:
    """Return the children of all threads.

    A child belongs to the thread that forked it.
    """
    found: list[int] = []
    try:
        for thread in Path(f"/proc/{pid}/task").iterdir():
            found += map(int, (thread / "children").read_text().split())
    except (FileNotFoundError, ProcessLookupError):
        return found
    return found


def _pss(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return sum(int(line.split()[1]) * _KIB for line in lines if line.startswith("Pss:"))


@contextmanager
def warmed(wanted: int) -> Iterator[None]:
    """Keep *wanted* bytes of free memory warm, or less if less is available.

    A virtual machine's first touch of memory was measured at up to 2 s per GB, and the next copy would pay for it. The
    same holds for memory that was given back to the host (free page reporting,
    Documentation/mm/free_page_reporting.rst). So this touches the memory and frees it, except one page in 128. The free
    pages between are too few to be reported, which is done in blocks of 2 MiB. The kernel hands them out first.

    But the memory is then too fragmented for huge pages, which a normal machine has. `freed_in_huge_pages` makes some.
    """
    size = min(wanted, int(_available_memory() * _WARM_SHARE)) // _STRIDE * _STRIDE
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
    """Touch *size* bytes in huge pages and free them.

    Call it right before a copy, because reporting starts two seconds later.
    """
    with mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        memory.madvise(mmap.MADV_HUGEPAGE)
        for start in range(0, size, mmap.PAGESIZE):
            memory[start] = 1


def _available_memory() -> int:
    found = re.search(r"^MemAvailable:\s*(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE)
    return int(found.group(1)) * 1024 if found else 0
