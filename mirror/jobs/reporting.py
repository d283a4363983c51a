"""From the engine's steps to the task's record, gathered so that Redis sees at most two writes a second per task."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace

from mirror.copying.progress import BlobState, PlannedBlob
from mirror.errors import RedisUnavailable
from mirror.oci.digest import Digest
from mirror.records.job import ByteCounts
from mirror.records.store import Claim, JobStore, Standing
from mirror.records.task import BlobReport


class TaskReporter:
    """A `Progress` that remembers what changed; `flush` writes it. Safe to call from several threads."""

    def __init__(self, store: JobStore, claim: Claim) -> None:
        self._store = store
        self._claim = claim
        self._lock = threading.Lock()
        self._flushing = threading.Lock()
        self._digest: Digest | None = None
        self._blobs: dict[str, BlobReport] = {}
        self._positions: dict[str, int] = {}
        self._changed: set[str] = set()
        self._checkpoints = 0
        self._dirty = False

    def resolved(self, digest: Digest) -> None:
        with self._lock:
            self._digest = digest
            self._dirty = True

    def planned(self, blobs: Sequence[PlannedBlob]) -> None:
        with self._lock:
            for position, blob in enumerate(blobs):
                digest = str(blob.descriptor.digest)
                self._blobs[digest] = BlobReport(digest, blob.descriptor.size, blob.state, reason=blob.reason)
                self._positions[digest] = position
            self._changed = set(self._blobs)
            self._dirty = True

    def advanced(self, digest: Digest, state: BlobState, copied: int = 0) -> None:
        with self._lock:
            key = str(digest)
            self._blobs[key] = replace(self._blobs[key], state=state, copied=copied)
            self._changed.add(key)
            self._dirty = True

    def checkpointed(self, digest: Digest) -> None:
        with self._lock:
            self._checkpoints += 1
            self._dirty = True

    def missing(self) -> int:
        """Bytes of the blobs that are not stored whole yet."""
        with self._lock:
            states = ("copied", "exists", "skipped")
            return sum(blob.size for blob in self._blobs.values() if blob.state not in states)

    @property
    def copied(self) -> int:
        """The bytes of all blobs that have arrived so far."""
        with self._lock:
            return sum(blob.copied for blob in self._blobs.values())

    def flush(self) -> Standing | None:
        """Write what changed since the last time; None if nothing did; raises RedisUnavailable."""
        with self._flushing:
            with self._lock:
                if not self._dirty:
                    return None
                changed = [(self._positions[key], self._blobs[key]) for key in sorted(self._changed)]
                counts = self._counts()
                finished = sum(blob.state == "copied" for blob in self._blobs.values())
                checkpoints = finished + self._checkpoints
                digest = str(self._digest) if self._digest else None
                self._changed.clear()
                self._dirty = False
            try:
                return self._store.progress(self._claim, changed, counts, digest=digest, checkpoints=checkpoints)
            except RedisUnavailable:
                with self._lock:
                    self._changed.update(blob.digest for _, blob in changed)
                    self._dirty = True
                raise

    def _counts(self) -> ByteCounts:
        blobs = [blob for blob in self._blobs.values() if blob.state != "skipped"]
        return ByteCounts(
            total=sum(blob.size for blob in blobs),
            copied=sum(blob.copied for blob in blobs),
            skipped=sum(blob.size for blob in blobs if blob.state == "exists"),
        )
