"""The hash frontier: parts arrive and are stored in any order, are hashed in the blob's order, and are let go in it.

    arrived ──► hashed, in order, by whichever thread brought the next part
        └─────► stored, in any order
                     behind the frontier: hashed, stored, and noted in the checkpoint; their buffers are free again

A buffer is held until the frontier has passed it. So a worker that dies loses no more than its buffers hold, which the
memory budget bounds, and there is no deadlock: parts take their buffers in the blob's order, and the first one that
holds a buffer needs nothing but its own bytes to get behind the frontier.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping

from mirror.oci.verification import Hasher
from mirror.storage.bucket import StoredPart

Save = Callable[[int, bytes | None, Mapping[int, StoredPart]], None]
"""Told the new frontier, the midstate of the hash behind it, and the receipts of the parts it has passed."""


class HashFrontier:
    """The parts of one blob from *first* on. Safe to share between threads.

    Two locks, always taken alone: one hashes, one saves. Whoever finds the hash lock taken leaves its part to the
    holder, who looks again after letting go; whoever waits for the other finds its part saved with the one before.
    """

    def __init__(self, hasher: Hasher, *, first: int, save: Save, release: Callable[[memoryview], None]) -> None:
        self._hasher = hasher
        self._save = save
        self._release = release
        self._state = threading.Lock()  # guards the fields below; held for moments
        self._arrived: dict[int, memoryview] = {}
        self._stored: dict[int, StoredPart] = {}
        self._midstates: dict[int, bytes | None] = {}
        self._next = first
        self._saved = first - 1
        self._hashing = threading.Lock()
        self._saving = threading.Lock()

    def arrived(self, number: int, part: memoryview) -> None:
        """The part's bytes are there: hash them, and those that waited for them. SizeInvalid if there are too many."""
        with self._state:
            self._arrived[number] = part
        while self._has_next() and self._hashing.acquire(blocking=False):
            try:
                self._hash_what_is_there()
            finally:
                self._hashing.release()
        self._move_on()

    def stored(self, number: int, part: StoredPart) -> None:
        """S3 has the part."""
        with self._state:
            self._stored[number] = part
        self._move_on()

    def abandon(self) -> None:
        """Release all parts, when no thread works on them any more."""
        with self._state:
            left, self._arrived = list(self._arrived.values()), {}
        for part in left:
            self._release(part)

    def _has_next(self) -> bool:
        with self._state:
            return self._next in self._arrived

    def _hash_what_is_there(self) -> None:
        while True:
            with self._state:
                part = self._arrived.get(self._next)
            if part is None:
                return
            self._hasher.update(part)
            midstate = self._hasher.midstate()
            with self._state:
                self._midstates[self._next] = midstate
                self._next += 1

    def _move_on(self) -> None:
        """Move the frontier over what is both hashed and stored, note it, and free the buffers behind it."""
        with self._saving:
            with self._state:
                reached = self._saved
                while reached + 1 in self._midstates and reached + 1 in self._stored:
                    reached += 1
                passed = range(self._saved + 1, reached + 1)
                if not passed:
                    return
                midstate = self._midstates[reached]
                receipts = {number: self._stored.pop(number) for number in passed}
            self._save(reached, midstate, receipts)
            with self._state:
                self._saved = reached
                parts = [self._arrived.pop(number) for number in passed]
                for number in passed:
                    del self._midstates[number]
        for part in parts:
            self._release(part)
