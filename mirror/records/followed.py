"""What schedules have mirrored, tag by tag, and since when the source of each tag lacks it. And their drift reports.

A schedule that follows deletions has one hash: from a target to a `FollowedTag`. If Redis loses it, no tag is deleted
until a run has seen the tag at its source again.

Only a run that is ``following`` writes. A process that was frozen meanwhile writes nothing after its run has ended.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import Final, Self

from mirror.background import record_fault
from mirror.records.fields import at
from mirror.records.jobs import PLAN_SECONDS
from mirror.redis import keys
from mirror.redis.client import Redis
from mirror.redis.scripts import load_script

_BATCH: Final = 500


@dataclass(frozen=True, slots=True)
class FollowedTag:
    """A target that a schedule has mirrored from *source*, ``registry/repository:tag``.

    The target shows *digest* since the run *selected_by*. Since *missing_since*, *missing* complete listings in a row
    lacked the source. The run *counted_by* counted the last one. *deleted_by* is the run that deleted the target, until
    that run has ended.
    """

    source: str
    digest: str
    selected_by: str
    missing: int = 0
    missing_since: datetime | None = None
    counted_by: str | None = None
    deleted_by: str | None = None

    def to_json(self) -> str:
        """Return the document without what is empty. Times are milliseconds."""
        since = None if self.missing_since is None else round(self.missing_since.timestamp() * 1000)
        found = {
            "source": self.source,
            "digest": self.digest,
            "selected_by": self.selected_by,
            "missing": self.missing,
            "missing_since": since,
            "counted_by": self.counted_by,
            "deleted_by": self.deleted_by,
        }
        return json.dumps({name: value for name, value in found.items() if value}, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Raises ValueError, KeyError or TypeError for what `to_json` does not return."""
        found = json.loads(text)
        since = found.get("missing_since")
        return cls(
            str(found["source"]),
            str(found["digest"]),
            str(found["selected_by"]),
            int(found.get("missing", 0)),
            None if since is None else at(int(since)),
            found.get("counted_by"),
            found.get("deleted_by"),
        )


class FollowedTags:
    """Reads and writes what schedules have mirrored. Every method raises RedisUnavailable."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._write = redis.script(load_script("mirror.records", "write_followed.lua"))

    def read(self, schedule_id: str) -> dict[str, FollowedTag]:
        """Return all tags of a schedule by their targets. One that cannot be read is left out, so it is not deleted."""
        found: dict[str, FollowedTag] = {}
        cursor: int | None = None
        while cursor != 0:
            cursor, texts = self._redis.call("HSCAN", keys.schedule_tags(schedule_id), cursor or 0, "COUNT", _BATCH)
            for target, text in texts.items():
                try:
                    found[target] = FollowedTag.from_json(text)
                except (ValueError, KeyError, TypeError) as error:
                    record_fault("reading what a schedule has mirrored", error, schedule_id=schedule_id, target=target)
        return found

    def write(self, schedule_id: str, run_id: str, changes: Mapping[str, FollowedTag | None]) -> bool:
        """Store the tags of these targets, and forget those that are None. Return False if the run follows no more."""
        for batch in _batches(changes):
            kept = [text for target in batch if (tag := changes[target]) for text in (target, tag.to_json())]
            forgotten = [target for target in batch if changes[target] is None]
            if not self._write(args=[schedule_id, run_id, json.dumps(kept), json.dumps(forgotten)]):
                return False
        return True

    def is_following(self, run_id: str) -> bool:
        return bool(self._redis.call("HGET", keys.run(run_id), "state") == "following")

    def forget_deleted(self, schedule_id: str, targets: Iterable[str]) -> None:
        """Forget targets that a run has deleted, after it has ended."""
        for batch in _batches(targets):
            self._redis.call("HDEL", keys.schedule_tags(schedule_id), *batch)

    def forget(self, schedule_id: str) -> None:
        """Forget all tags of a schedule: it follows no deletions any more."""
        self._redis.call("UNLINK", keys.schedule_tags(schedule_id))


class DriftPlans:
    """The last plan of each schedule that says what a run would change. Every method raises RedisUnavailable."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    def read(self, schedule_id: str, version: int) -> str | None:
        """Return the plan that was made for this version of the schedule, None if there is none."""
        found = self._redis.call("GET", keys.schedule_drift(schedule_id))
        made_for, _, plan_id = (found or "").partition(" ")
        return plan_id if made_for == str(version) else None

    def write(self, schedule_id: str, version: int, plan_id: str) -> None:
        self._redis.call("SET", keys.schedule_drift(schedule_id), f"{version} {plan_id}", "EX", PLAN_SECONDS)


def _batches(targets: Iterable[str]) -> Iterator[list[str]]:
    rest = iter(targets)
    while batch := list(islice(rest, _BATCH)):
        yield batch
