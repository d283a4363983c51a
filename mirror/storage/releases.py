"""Journals of releases: which tags an atomic job moves, from which digest to which.

A journal is written before the first tag moves, and deleted after the last one. Any process that finds one can finish
the release or undo it, with nothing but the bucket. The garbage collector must mark from ``after`` and ``before`` of
every journal, as it marks from tags.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import Any, Final, Literal, Self, get_args

from mirror.errors import InvalidDigest, StorageDamaged
from mirror.oci.digest import Digest
from mirror.storage import layout
from mirror.storage.bucket import Bucket

MOST_TAGS: Final = 1_000
"""Tags of one release. So a journal has at most 1 MB, and the tags move within seconds."""
_LONGEST_JOURNAL: Final = 2 * 2**20
_MOST_LISTED: Final = 1_000
ReleaseState = Literal["moving", "undoing"]
_STATES: Final[tuple[ReleaseState, ...]] = get_args(ReleaseState)


@dataclass(frozen=True, slots=True)
class TagMove:
    """A tag of a release: what it showed *before*, None if there was no such tag, and what it shows *after*.

    *number* is that of the change in the tag's sequence. The last change that was recorded before it has the number
    *last_number* and was made by *last_by*. They are 0 and empty if there was none.
    """

    repository: str
    tag: str
    before: Digest | None
    after: Digest
    number: int
    last_number: int = 0
    last_by: str = ""

    @property
    def name(self) -> tuple[str, str]:
        """Repository and tag."""
        return self.repository, self.tag

    def to_fields(self) -> dict[str, Any]:
        change = {"number": self.number, "last_number": self.last_number, "last_by": self.last_by}
        before = str(self.before) if self.before else None
        return {"repository": self.repository, "tag": self.tag, "before": before, "after": str(self.after), **change}

    @classmethod
    def from_fields(cls, fields: Mapping[str, Any]) -> Self:
        """Raises KeyError, TypeError, ValueError or InvalidDigest for what `to_fields` does not return."""
        before = Digest.parse(fields["before"]) if fields["before"] else None
        numbers = int(fields["number"]), int(fields["last_number"]), str(fields["last_by"])
        return cls(str(fields["repository"]), str(fields["tag"]), before, Digest.parse(fields["after"]), *numbers)


@dataclass(frozen=True, slots=True)
class ReleaseJournal:
    """The journal of the release of *job*. *state* says in which direction the release is to be finished."""

    job: str
    state: ReleaseState
    started_at: datetime
    moves: tuple[TagMove, ...]

    def to_json(self) -> bytes:
        """Return the document. It repeats the job, for people who read the bucket."""
        facts = {"job": self.job, "state": self.state, "started_at": self.started_at.isoformat()}
        return json.dumps({**facts, "tags": [move.to_fields() for move in self.moves]}).encode()

    @classmethod
    def from_json(cls, job: str, content: bytes) -> Self:
        """Parse what `to_json` wrote. Raises ValueError for anything else."""
        try:
            document = json.loads(content)
            state, started_at = document["state"], datetime.fromisoformat(document["started_at"])
            moves = tuple(TagMove.from_fields(fields) for fields in document["tags"])
        except (KeyError, TypeError, AttributeError, RecursionError, InvalidDigest) as error:
            raise ValueError("the journal of a release is malformed") from error
        if state not in _STATES:
            raise ValueError("the journal of a release has an unknown state")
        return cls(job, state, started_at, moves)


class ReleaseJournals:
    """The journals in the bucket. A caller that writes or deletes one holds the lease of the release.

    Writes are tried once and take at most *timeout* seconds, so that none happens after that lease expired.
    """

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket

    def read(self, job: str) -> ReleaseJournal | None:
        """Return the journal of the job's release, None if there is none. Raises StorageDamaged."""
        key = layout.release_key(job)
        content = self._bucket.read(key, _LONGEST_JOURNAL)
        try:
            return None if content is None else ReleaseJournal.from_json(job, content)
        except ValueError:
            raise StorageDamaged(key, "it is not the journal of a release") from None

    def write(self, journal: ReleaseJournal, *, timeout: float) -> None:
        self._bucket.put(layout.release_key(journal.job), journal.to_json(), timeout=timeout, retries=False)

    def delete(self, job: str, *, timeout: float) -> None:
        """Delete the journal of a release that is complete or undone."""
        self._bucket.delete([layout.release_key(job)], timeout=timeout, retries=False)

    def jobs(self) -> Iterator[str]:
        """Yield the jobs whose releases have a journal, at most a thousand."""
        for key in islice(self._bucket.keys(layout.RELEASES_PREFIX), _MOST_LISTED):
            yield key.removeprefix(layout.RELEASES_PREFIX)
