"""The hash frontier: parts arrive and are stored in any order, but are hashed and released in the blob's order.

    arrived ──► hashed, in order, by the thread that brings the next part
        └─────► stored, in any order
                     passed by the frontier: hashed, stored and in the checkpoint. Its buffer is free again.

A buffer is held until the frontier has passed its part. So a worker that dies loses no more than its buffers hold, and
the memory budget bounds that. There is no deadlock: parts take their buffers in the blob's order, and the first part
that holds a buffer needs only its own bytes to be passed.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping

from mirror.oci.verification import Hasher
from mirror.storage.multipart import StoredPart

Save = Callable[[int, bytes | None, Mapping[int, StoredPart]], None]
"""Receives the new frontier, the midstate of the hash at it, and the receipts of the parts that it has passed."""


class HashFrontier:
    """The parts of one blob from *first* on. Safe to share between threads.

    It has two locks for work, one for hashing and one for saving, and a thread holds at most one of them. A thread that
    finds the hash lock taken leaves its part to the holder, which looks again after it has released the lock. A thread
    that has waited for the save lock may find its part saved together with the one before.
    """

    def __init__(self, hasher: Hasher, *, first: int, save: Save, release: Callable[[memoryview], None]) -> None:
        self._hasher = hasher
        self._save = save
        self._release = release
        self._state = threading.Lock()  # guards the fields below, and is held only for moments
        self._arrived: dict[int, memoryview] = {}
        self._stored: dict[int, StoredPart] = {}
        self._midstates: dict[int, bytes | None] = {}
        self._next = first
        self._saved = first - 1
        self._hashing = threading.Lock()
        self._saving = threading.Lock()

    def arrived(self, number: int, part: memoryview) -> None:
        """Hash the part, and the parts that waited for it. Raises SizeInvalid if the blob has too many bytes."""
        with self._state:
            self._arrived[number] = part
        while self._has_next() and self._hashing.acquire(blocking=False):
            try:
                self._hash_arrived()
            finally:
                self._hashing.release()
        self._advance()

    def stored(self, number: int, part: StoredPart) -> None:
        """Note that S3 has stored the part."""
        with self._state:
            self._stored[number] = part
        self._advance()

    def abandon(self) -> None:
        """Release all parts. Call this when no thread works on them any more."""
        with self._state:
            left, self._arrived = list(self._arrived.values()), {}
        for part in left:
            self._release(part)

    def _has_next(self) -> bool:
        with self._state:
            return self._next in self._arrived

    def _hash_arrived(self) -> None:
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

    def _advance(self) -> None:
        """Move the frontier over parts that are both hashed and stored, save it, and release their buffers."""
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
