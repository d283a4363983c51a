"""Collect the progress of a copy for the record of its task. Redis gets at most two writes per second and task.

An image may have more blobs than a record should hold. All of them are counted. The record keeps the first `KEPT_BLOBS`
of the plan, and `SHOWN_BLOBS` that are chosen to be shown with the task.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import chain, islice
from typing import Final

from mirror.copying.ports import BlobState, PlannedBlob
from mirror.errors import RedisUnavailable
from mirror.oci.digest import Digest
from mirror.records.claims import Claim, ClaimState, ClaimStore
from mirror.records.job import ByteCounts
from mirror.records.task import BLOB_STATES, KEPT_BLOBS, SHOWN_BLOBS, BlobReport, ForeignLayerCounts

_SHOWN_FIRST: Final = ("failed", "copying", "verifying")
"""States that are shown first, in this order, of an image with many blobs. Few blobs have them at a time."""


class TaskProgress:
    """A `Progress` that remembers what changed until `flush` writes it. Safe to call from several threads."""

    def __init__(self, store: ClaimStore, claim: Claim) -> None:
        self._store = store
        self._claim = claim
        self._lock = threading.Lock()
        self._flushing = threading.Lock()
        self._digest: Digest | None = None
        self._blobs = _Blobs([])
        self._changed: set[int] = set()
        self._checkpoints = 0
        self._dirty = False
        self._is_new_plan = False

    def resolved(self, digest: Digest) -> None:
        with self._lock:
            self._digest = digest
            self._dirty = True

    def planned(self, blobs: Sequence[PlannedBlob]) -> None:
        with self._lock:
            self._blobs = _Blobs(blobs)
            self._changed = set(range(min(len(blobs), KEPT_BLOBS)))
            self._is_new_plan = True
            self._dirty = True

    def advanced(self, digest: Digest, state: BlobState, copied: int = 0) -> None:
        with self._lock:
            place = self._blobs.advance(digest, state, copied)
            if place < KEPT_BLOBS:
                self._changed.add(place)
            self._dirty = True

    def stopped(self, digest: Digest, state: BlobState, reason: str, code: str | None = None) -> None:
        with self._lock:
            place = self._blobs.stop(digest, state, reason, code)
            if place < KEPT_BLOBS:
                self._changed.add(place)
            self._dirty = True

    def checkpointed(self, digest: Digest) -> None:
        with self._lock:
            self._checkpoints += 1
            self._dirty = True

    def missing(self) -> int:
        """Return the bytes of the blobs that are not stored completely."""
        with self._lock:
            return self._blobs.missing()

    @property
    def copied(self) -> int:
        """The bytes that were copied so far."""
        with self._lock:
            return self._blobs.bytes().copied

    def flush(self) -> ClaimState | None:
        """Write what changed since the last call. Returns None if nothing changed. Raises RedisUnavailable."""
        with self._flushing:
            with self._lock:
                if not self._dirty:
                    return None
                blobs = self._blobs
                places = sorted(self._changed)
                changed = [(place, blobs.report(place)) for place in places]
                shown = blobs.to_show() if len(blobs) > SHOWN_BLOBS else None
                counts, states = blobs.bytes(), blobs.states() if len(blobs) else None
                foreign_layers = blobs.foreign_layers() if len(blobs) else None
                checkpoints = blobs.count("copied") + self._checkpoints
                digest = str(self._digest) if self._digest else None
                is_new_plan = self._is_new_plan
                self._changed.clear()
                self._dirty = self._is_new_plan = False
            try:
                return self._store.progress(
                    self._claim,
                    changed,
                    counts,
                    digest=digest,
                    checkpoints=checkpoints,
                    states=states,
                    foreign_layers=foreign_layers,
                    shown=shown,
                    is_new_plan=is_new_plan,
                )
            except RedisUnavailable:
                with self._lock:
                    self._is_new_plan = self._is_new_plan or is_new_plan
                    self._changed.update(places)
                    self._dirty = True
                raise


class _Blobs:
    """The progress of each blob, by its place in the plan. Every sum is updated with each change."""

    def __init__(self, planned: Sequence[PlannedBlob]) -> None:
        self._planned = planned
        self._places = {blob.descriptor.digest: place for place, blob in enumerate(planned)}
        self._states: list[BlobState] = [blob.state for blob in planned]
        self._counts = Counter(self._states)
        self._copied: dict[int, int] = {}
        self._causes: dict[int, tuple[str, str | None]] = {}
        self._bytes_copied = 0
        self._bytes = Counter[str]()
        self._foreign = Counter[str]()
        for blob in planned:
            self._bytes[blob.state] += blob.descriptor.size
            self._foreign[blob.state] += blob.descriptor.is_foreign_layer
        self._active: set[int] = set()
        self._first_waiting = 0

    def __len__(self) -> int:
        return len(self._planned)

    def advance(self, digest: Digest, state: BlobState, copied: int) -> int:
        """Note the state of a blob and its copied bytes. Return its place."""
        place = self._places[digest]
        descriptor = self._planned[place].descriptor
        before, size, is_foreign = self._states[place], descriptor.size, descriptor.is_foreign_layer
        self._states[place] = state
        self._counts[before] -= 1
        self._counts[state] += 1
        self._bytes[before] -= size
        self._bytes[state] += size
        self._foreign[before] -= is_foreign
        self._foreign[state] += is_foreign
        self._bytes_copied += copied - self._copied.get(place, 0)
        self._copied[place] = copied
        self._causes.pop(place, None)
        (self._active.add if state in _SHOWN_FIRST else self._active.discard)(place)
        return place

    def stop(self, digest: Digest, state: BlobState, reason: str, code: str | None) -> int:
        """Note why a blob is not copied. Return its place."""
        place = self.advance(digest, state, self._copied.get(self._places[digest], 0))
        self._causes[place] = reason, code
        return place

    def report(self, place: int) -> BlobReport:
        blob, state = self._planned[place], self._states[place]
        reason, code = self._causes.get(place, (blob.reason, blob.code) if state == blob.state else (None, None))
        copied = self._copied.get(place, 0)
        return BlobReport(str(blob.descriptor.digest), blob.descriptor.size, state, copied, reason, code)

    def to_show(self) -> list[BlobReport]:
        """Choose the blobs to show: those that failed or are being copied, then those that wait, then the others."""
        active = sorted(self._active, key=lambda place: (_SHOWN_FIRST.index(self._states[place]), place))
        chosen = dict.fromkeys(islice(chain(active, self._waiting(), range(len(self))), SHOWN_BLOBS + len(active)))
        return [self.report(place) for place in islice(chosen, SHOWN_BLOBS)]

    def _waiting(self) -> Iterator[int]:
        """Iterate over the places that wait. Finished ones before the first are passed over once."""
        while self._first_waiting < len(self) and self._states[self._first_waiting] not in ("waiting", *_SHOWN_FIRST):
            self._first_waiting += 1
        return (place for place in range(self._first_waiting, len(self)) if self._states[place] == "waiting")

    def count(self, state: BlobState) -> int:
        return self._counts[state]

    def states(self) -> dict[BlobState, int]:
        return {state: self._counts[state] for state in BLOB_STATES if self._counts[state]}

    def foreign_layers(self) -> ForeignLayerCounts:
        return ForeignLayerCounts(self._foreign["copied"] + self._foreign["exists"], self._foreign["skipped"])

    def missing(self) -> int:
        return sum(size for state, size in self._bytes.items() if state not in ("copied", "exists", "skipped"))

    def bytes(self) -> ByteCounts:
        total = sum(self._bytes.values()) - self._bytes["skipped"]
        return ByteCounts(total, self._bytes_copied, self._bytes["exists"])
