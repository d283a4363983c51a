"""The history of one tag: the changes that one writer made of it, and what readers saw of it meanwhile.

The tag must behave as an atomic register with one writer (Lamport, "On Interprocess Communication", 1986):

- A read that begins after a change was answered does not see an older state.
- A read during a change sees the old or the new state.
- A read that begins after another one ended does not see an older state than that one, whichever process served it.

A change that failed may take effect at any time until the next change is answered, or never.
"""

from __future__ import annotations

import heapq
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import inf
from time import monotonic

from mirror.oci.digest import Digest


@dataclass(frozen=True, slots=True)
class TagRead:
    """What a reader saw, and when. The digest is None where there is no such tag. *by* says who read."""

    digest: Digest | None
    begun: float
    ended: float
    by: str


@dataclass(slots=True)
class _State:
    digest: Digest | None
    begun: float
    answered: float = inf


@dataclass(slots=True)
class TagHistory:
    """Changes of one tag, in their order, and reads of it, in any order. Safe to share between threads."""

    name: str
    _states: list[_State] = field(default_factory=lambda: [_State(None, -inf, -inf)])
    _reads: list[TagRead] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def digest(self) -> Digest | None:
        """What the last change made of the tag."""
        return self._states[-1].digest

    @property
    def digests(self) -> list[Digest]:
        """Every digest that the tag had, the oldest first."""
        return [state.digest for state in self._states if state.digest]

    @contextmanager
    def change(self, digest: Digest | None, *, is_answered: bool = True) -> Iterator[None]:
        """Change the tag in the block. A block that raises has no answer, whatever *is_answered* says."""
        state = _State(digest, monotonic())
        with self._lock:
            self._states.append(state)
        yield
        if is_answered:
            state.answered = monotonic()

    def add_read(self, read: TagRead) -> None:
        with self._lock:
            self._reads.append(read)

    @property
    def reads(self) -> Sequence[TagRead]:
        return tuple(self._reads)

    def stale_reads(self) -> list[str]:
        """Return a sentence for each read that no order of the operations explains.

        Each read gets the oldest state that explains it, in the order in which the reads began. That leaves later
        reads the widest choice.
        """
        found: list[str] = []
        newest_seen, under_way = 0, list[tuple[float, int]]()
        for read in sorted(self._reads, key=lambda read: read.begun):
            while under_way and under_way[0][0] < read.begun:
                newest_seen = max(newest_seen, heapq.heappop(under_way)[1])
            answered = max(n for n, state in enumerate(self._states) if state.answered < read.begun)
            begun = max(n for n, state in enumerate(self._states) if state.begun < read.ended)
            oldest = max(answered, newest_seen)
            seen = next((n for n in range(oldest, begun + 1) if self._states[n].digest == read.digest), None)
            if seen is None:
                cause = "was answered" if answered >= newest_seen else "was read"
                found.append(f"{self.name}: {read.by} saw {read.digest} after {self._states[oldest].digest} {cause}")
            else:
                heapq.heappush(under_way, (read.ended, seen))
        return found
