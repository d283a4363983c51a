"""The sequence of a tag: which of two changes is the later one, whatever their speed.

A change takes a number just before it looks at what the tag should become (a copy: before it asks the source). Under
the tag's lease it compares its number with the number published last; a lower one has been overtaken and leaves the
tag alone. So of two jobs the one that asked the source later wins, in whatever order they finish.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from mirror.redis import keys
from mirror.redis.client import Redis

_PUBLISH = """
-- KEYS: what was published. ARGV: tag, number, the publication. Answers who published a higher number, if anybody did.
local before = redis.call('HGET', KEYS[1], ARGV[1])
before = before and cjson.decode(before)
if before and before.number > tonumber(ARGV[2]) then return before.by end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
return false
"""


@dataclass(frozen=True, slots=True)
class Publication:
    """Who moved a tag last: ``by`` is a job's id, or ``retag`` or ``delete``."""

    number: int
    by: str


class TagSequence:
    """Numbers for changes of tags. Losing Redis restarts it with nothing taken and nothing published: consistent."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._publish = redis.script(_PUBLISH)

    def take(self, tags: Sequence[tuple[str, str]]) -> list[int]:
        """For each (repository, tag) its next number, higher than every number taken before; in one turn."""
        taken = self._redis.calls([["HINCRBY", keys.tag_taken(repository), tag, 1] for repository, tag in tags])
        return [int(number) for number in taken]

    def published(self, repository: str, tag: str) -> Publication | None:
        found = self._redis.call("HGET", keys.tag_published(repository), tag)
        return Publication(**json.loads(found)) if found else None

    def overtaken_by(self, repository: str, tag: str, number: int) -> str | None:
        """Who published a higher number than *number*, None if nobody did."""
        last = self.published(repository, tag)
        return last.by if last and last.number > number else None

    def publish(self, repository: str, tag: str, number: int, by: str) -> str | None:
        """Note that *number* is what the tag shows now; called under the tag's lease, after the commit.

        Answers who published a higher number, and then notes nothing.
        """
        [overtaken_by] = self.publish_all([(repository, tag, number, by)])
        return overtaken_by

    def publish_all(self, changes: Sequence[tuple[str, str, int, str]]) -> list[str | None]:
        """For each (repository, tag, number, by) what `publish` answers, in few turns."""
        return self._publish.many(
            [
                ([keys.tag_published(repository)], [tag, number, json.dumps({"number": number, "by": by})])
                for repository, tag, number, by in changes
            ]
        )
