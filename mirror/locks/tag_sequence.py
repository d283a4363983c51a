"""The sequence of a tag: which of two changes is the later one.

It does not matter which finishes first.

A change takes a number just before it reads what the tag should become: a copy takes it before it asks the source.
Under the tag's lease the change compares its number with the last published one. If that is higher, the change was
overtaken and leaves the tag alone. So of two jobs the one that asked the source later wins.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from mirror.redis import keys
from mirror.redis.client import Redis
from mirror.redis.scripts import load_script

_PUBLISH: Final = load_script("mirror.locks", "publish_number.lua")


@dataclass(frozen=True, slots=True)
class Publication:
    """The change that moved a tag last.

    ``by`` is a job's id, or ``retag`` or ``delete``.
    """

    number: int
    by: str


class TagSequence:
    """Numbers for changes of tags. Every method raises RedisUnavailable.

    If Redis loses its data, all sequences start again with nothing taken and nothing published, which is consistent.
    """

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._publish = redis.script(_PUBLISH)

    def take(self, tags: Sequence[tuple[str, str]]) -> list[int]:
        """Return the next number of each (repository, tag), in one round trip.

        It is above all numbers taken before.
        """
        taken = self._redis.calls([["HINCRBY", keys.tag_taken(repository), tag, 1] for repository, tag in tags])
        return [int(number) for number in taken]

    def published(self, repository: str, tag: str) -> Publication | None:
        """Return the change that moved the tag last, None if there is none."""
        [found] = self.all_published([(repository, tag)])
        return found

    def all_published(self, tags: Sequence[tuple[str, str]]) -> list[Publication | None]:
        """Return what `published` returns for each (repository, tag), in one round trip."""
        found = self._redis.calls([["HGET", keys.tag_published(repository), tag] for repository, tag in tags])
        return [Publication(**json.loads(text)) if text else None for text in found]

    def overtaken_by(self, repository: str, tag: str, number: int) -> str | None:
        """Return who published a higher number than *number*, None if there is none."""
        last = self.published(repository, tag)
        return last.by if last and last.number > number else None

    def publish(self, changes: Sequence[tuple[str, str, int, str]]) -> list[str | None]:
        """Note that the tags show these changes now: (repository, tag, number, by).

        Call it under the tags' leases, after the commit. It takes few round trips. For each change return who published
        a higher number, None if there is none. A change that was overtaken is not noted.
        """
        return self._publish.many(
            [
                ([keys.tag_published(repository)], [tag, number, json.dumps({"number": number, "by": by})])
                for repository, tag, number, by in changes
            ]
        )
