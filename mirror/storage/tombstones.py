"""Tombstones: what a tag was that its source has deleted, for people and for the API.

The tag itself is gone. Its image is kept by its digest (`KeptStore`), so a tombstone protects nothing. A tag that a
user brings back keeps its tombstone. That does no harm, because it is read only while there is no such tag.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Self

from mirror.errors import InvalidDigest
from mirror.oci.digest import Digest
from mirror.storage import layout
from mirror.storage.bucket import Bucket

_LONGEST: Final = 16 * 1024


@dataclass(frozen=True, slots=True)
class Tombstone:
    """The tag of *source* showed *digest* when the *run* of the *schedule* deleted it here, at *deleted_at*."""

    digest: Digest
    source: str
    deleted_at: datetime
    schedule: str
    run: str

    def to_json(self) -> bytes:
        facts = {"digest": str(self.digest), "source": self.source, "deleted_at": self.deleted_at.isoformat()}
        return json.dumps({**facts, "schedule": self.schedule, "run": self.run}).encode()

    @classmethod
    def from_json(cls, content: bytes) -> Self | None:
        """Parse what `to_json` wrote. None for anything else."""
        try:
            found = json.loads(content)
            source, schedule, run = (str(found[name]) for name in ("source", "schedule", "run"))
            deleted_at = datetime.fromisoformat(found["deleted_at"])
            return cls(Digest.parse(str(found["digest"])), source, deleted_at, schedule, run)
        except (ValueError, KeyError, TypeError, RecursionError, InvalidDigest):
            return None


class TombstoneStore:
    """The tombstones in the bucket. Safe to share between threads."""

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket

    def write(self, repository: str, tag: str, tombstone: Tombstone) -> None:
        self._bucket.put(layout.tombstone_key(repository, tag), tombstone.to_json())

    def read(self, repository: str, tag: str) -> Tombstone | None:
        """Return the tombstone of a tag, None if there is none or it cannot be read."""
        content = self._bucket.read(layout.tombstone_key(repository, tag), _LONGEST)
        return None if content is None else Tombstone.from_json(content)

    def delete(self, repository: str, tag: str) -> None:
        """Delete the tombstone of one tag. No error if there is none."""
        self._bucket.delete([layout.tombstone_key(repository, tag)])

    def delete_existing(self, tags: Iterable[tuple[str, str]]) -> None:
        """Delete the tombstones of each (repository, tag), of which few have one. Costs a listing per repository."""
        wanted: dict[str, set[str]] = defaultdict(set)
        for repository, tag in tags:
            wanted[repository].add(layout.tombstone_key(repository, tag))
        for repository, of_repository in wanted.items():
            found = self._bucket.keys(layout.tombstones_prefix(repository))
            self._bucket.delete([key for key in found if key in of_repository])
