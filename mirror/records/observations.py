"""When the mirror first saw which digest under which tag of a source. A publisher cannot set that.

An observation is kept while its tag shows the digest. A tag that moves is new again, also if it moves back. If Redis
loses the observations, every tag is new again: then a `min_age` waits too long, and never too short.
"""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from mirror.oci.digest import Digest
from mirror.oci.reference import RepositoryPattern
from mirror.records.fields import at
from mirror.redis import keys
from mirror.redis.client import Redis
from mirror.redis.scripts import load_script

KEPT_SECONDS: Final = 400 * 86400
"""Seconds for which the observations of a repository are kept after the last one."""
_AT_ONCE: Final = 500


@dataclass(frozen=True, slots=True)
class Observation:
    """When a tag was first seen with the digest that it shows, and when the image says that it was created."""

    first_seen: datetime
    created: datetime | None = None


class ObservationStore:
    """The observations of all source repositories. Every method raises RedisUnavailable."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._observe = redis.script(load_script("mirror.records", "observe_tags.lua"))
        self._note_created = redis.script(load_script("mirror.records", "note_created.lua"))

    def observe(
        self, repository: RepositoryPattern, shown: Mapping[str, Digest], moment: datetime
    ) -> dict[str, Observation]:
        """Note what each tag shows at *moment*, and return what is known of that."""
        found: dict[str, Observation] = {}
        tags = list(shown)
        for start in range(0, len(tags), _AT_ONCE):
            part = tags[start : start + _AT_ONCE]
            pairs = [text for tag in part for text in (tag, str(shown[tag]))]
            times = [int(moment.timestamp() * 1000), KEPT_SECONDS * 1000]
            answer = self._observe([keys.observed_tags(repository.name)], [*times, *pairs])
            for tag, first_seen, created in zip(part, answer[::2], answer[1::2], strict=True):
                found[tag] = Observation(at(int(first_seen)), datetime.fromisoformat(created) if created else None)
        return found

    def note_created(self, repository: RepositoryPattern, tag: str, digest: Digest, created: datetime) -> None:
        """Note when the image *digest* says that it was created, so that it need not be read again."""
        self._note_created([keys.observed_tags(repository.name)], [tag, str(digest), created.isoformat()])

    def forget_others(self, repository: RepositoryPattern, tags: AbstractSet[str]) -> None:
        """Forget all tags but *tags*, which are those of a complete list."""
        key = keys.observed_tags(repository.name)
        gone = [tag for tag in self._redis.call("HKEYS", key) if tag not in tags]
        for start in range(0, len(gone), _AT_ONCE):
            self._redis.call("HDEL", key, *gone[start : start + _AT_ONCE])
