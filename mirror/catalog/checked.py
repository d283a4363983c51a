"""When tags were last compared with their sources. Lists show it with each entry of the index.

A job compares a tag when it publishes it, finds it unchanged, or finds that its source has moved it. That says nothing
of the image, so it is not part of the tag's entry, and the bucket does not have it. A script that puts another entry of
the tag, or removes its entry, removes the time as well.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Final

from mirror.records.fields import at
from mirror.redis import keys
from mirror.redis.client import Redis
from mirror.redis.scripts import Run, load_script

_NOTE: Final = load_script("mirror.catalog", "note_checked.lua")
_TAGS_AT_ONCE: Final = 1_000
"""Tags of a repository that one run of the script notes. Lua unpacks no more than some thousand values."""


class CheckedTags:
    """The times at which tags were compared with their sources. Every method raises RedisUnavailable."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._note = redis.script(_NOTE)

    def note(self, tags: Iterable[tuple[str, str]]) -> None:
        """Note that each (repository, tag) was compared with its source now. Takes few round trips for many tags.

        If the caller holds the leases of the tags, none is deleted meanwhile. Else the time of a tag that is gone may
        stay, which no reader sees.
        """
        of_repositories: dict[str, list[str]] = {}
        for repository, tag in tags:
            of_repositories.setdefault(repository, []).append(tag)
        runs: list[Run] = [
            ([keys.index_checked(repository)], names[first : first + _TAGS_AT_ONCE])
            for repository, names in of_repositories.items()
            for first in range(0, len(names), _TAGS_AT_ONCE)
        ]
        self._note.many(runs)

    def times(self, tags: Sequence[tuple[str, str]]) -> list[datetime | None]:
        """Return when each (repository, tag) was compared last, None where that is not known. Takes one round trip."""
        found = self._redis.calls([["HGET", keys.index_checked(repository), tag] for repository, tag in tags])
        return [at(int(ms)) if ms else None for ms in found]
