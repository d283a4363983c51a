"""What processes cost: CPU seconds and memory of whole trees, as the kernel counts them."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Final, Self

_TICKS: Final = os.sysconf("SC_CLK_TCK")
_SAMPLE_EVERY: Final = 0.5
"""Seconds; the kernel walks every page for it, 8 ms of CPU for a full worker."""
_KIB: Final = 1024


def tree(root: int) -> list[int]:
    """*root* and every process below it that runs now."""
    found, open_ends = [], [root]
    while open_ends:
        pid = open_ends.pop()
        found.append(pid)
        open_ends += _children(pid)
    return found


def cpu_seconds(roots: Iterable[int]) -> float:
    """User and system time of these trees so far, of children that have ended too.

    A child that ends between two readings moves its time to its parent (``cutime``), so the difference is right.
    """
    ticks = 0
    for pid in (pid for root in roots for pid in tree(root)):
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        ticks += sum(map(int, fields[11:15]))
    return ticks / _TICKS


def proportional_bytes(roots: Iterable[int]) -> int:
    """Memory of these trees as PSS: what processes share (a worker and its horse do) is counted once."""
    return sum(_pss(pid) for root in roots for pid in tree(root))


@dataclass(slots=True)
class PeakMemory:
    """Samples the memory of groups of process trees twice a second while the block runs."""

    groups: Callable[[], dict[str, list[int]]]
    peaks: dict[str, int] = field(default_factory=dict)
    _over: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._sample, name="memory")
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._over.set()
        if self._thread:
            self._thread.join()

    def _sample(self) -> None:
        while True:
            for name, roots in self.groups().items():
                self.peaks[name] = max(self.peaks.get(name, 0), proportional_bytes(roots))
            if self._over.wait(_SAMPLE_EVERY):
                return


def _children(pid: int) -> list[int]:
    """Of every thread: a child belongs to the thread that forked it."""
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
