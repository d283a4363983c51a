"""The index: what lists show, in Redis and in lexical order. The bucket is the truth, and the index can be rebuilt.

S3's own order is not the one of the distribution spec (``1.0-alpine/`` sorts before ``1.0/``), and listing a bucket is
slow. So each change of a tag is written to the index too, after its commit and under the tag's lease. When Redis lost
the index, lists raise CatalogRebuilding until rebuild.py has read the bucket, rather than leave images out.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, NamedTuple

from mirror.catalog.entry import ImageEntry, IndexedTag, RepositoryEntry
from mirror.errors import CatalogRebuilding, RepositoryNotHeld
from mirror.oci.digest import Digest
from mirror.redis import keys
from mirror.redis.client import Redis
from mirror.redis.scripts import Run, load_script

_READ_AT_ONCE: Final = 200
_PUT: Final = load_script("mirror.catalog", "put_entry.lua")
_PUT_UNCHANGED: Final = load_script("mirror.catalog", "put_unchanged_entry.lua")
_REMOVE: Final = load_script("mirror.catalog", "remove_entry.lua")
_NOTE_PROGRESS: Final = load_script("mirror.catalog", "note_rebuild_progress.lua")
_FINISH: Final = load_script("mirror.catalog", "finish_rebuild.lua")


class RebuildProgress(NamedTuple):
    """How far a rebuild is: the tags that are done, and the repository of the last one. Names come in lexical order."""

    tags: int
    repository: str


class CatalogIndex:
    """Reads lists and entries, and changes the entry of one tag. Safe to share between threads.

    The caller of `put`, `replace` and `remove` holds the tag's lease. So the last commit is also the last entry. Every
    method raises RedisUnavailable.
    """

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._put = redis.script(_PUT)
        self._remove = redis.script(_REMOVE)

    def put(self, entry: ImageEntry, sizes: Mapping[Digest, int], *, is_checked: bool = False) -> None:
        """List *entry*. *sizes* are the bytes of everything that the image needs, for the repository's sum.

        *is_checked* says that the tag was compared with its source now. If not, it is not known when that was.
        """
        names, args = _put_run(entry, sizes)
        self._put(names, [*args, int(is_checked)])

    def replace(self, entry: ImageEntry) -> None:
        """Put *entry* in place of the one of the same tag, if that still has the same digest."""
        key = keys.index_entries(entry.repository)
        stored = self._redis.call("HGET", key, entry.tag)
        if stored and _entry(stored).digest == entry.digest:
            self._redis.call("HSET", key, entry.tag, json.dumps({**json.loads(stored), "entry": entry.to_json()}))

    def remove(self, repository: str, tag: str) -> None:
        self._remove(_keys(repository), [repository, tag])

    def entry(self, repository: str, tag: str) -> ImageEntry | None:
        found = self._redis.call("HGET", keys.index_entries(repository), tag)
        return _entry(found) if found else None

    def look_up(self, repository: str, tag: str) -> tuple[ImageEntry | None, bool]:
        """Return the tag's entry, and whether the index is built. If it is not, a tag may exist without an entry."""
        commands = [["HGET", keys.index_entries(repository), tag], ["EXISTS", keys.INDEX_BUILT]]
        found, is_built = self._redis.calls(commands)
        return _entry(found) if found else None, bool(is_built)

    def indexed(self, tags: Sequence[tuple[str, str]]) -> list[IndexedTag | None]:
        """Return for each (repository, tag) what is listed of it, None where nothing is. Takes one round trip."""
        found = self._redis.calls([["HGET", keys.index_entries(repository), tag] for repository, tag in tags])
        return [IndexedTag.from_json(_stored_entry(text)) if text else None for text in found]

    def is_built(self) -> bool:
        return bool(self._redis.call("EXISTS", keys.INDEX_BUILT))

    def progress(self) -> RebuildProgress | None:
        """Return how far the rebuild is, None if none has begun."""
        tags, repository = self._redis.call("HMGET", keys.INDEX_REBUILD, "tags", "repository")
        return None if tags is None else RebuildProgress(int(tags), repository or "")

    def repositories(self, *, limit: int, after: str = "") -> tuple[list[RepositoryEntry], str | None]:
        """Return at most *limit* repositories in lexical order, from the first one after *after* on.

        Also return the name to continue after, None at the end of the list. Raises CatalogRebuilding.
        """
        self._require_built()
        low = f"({after}" if after else "-"
        found = self._redis.call("ZRANGEBYLEX", keys.INDEX_REPOSITORIES, low, "+", "LIMIT", 0, limit + 1)
        names = list(found[:limit])
        counts = self._redis.calls([["HLEN", keys.index_entries(name)] for name in names])
        sizes = self._redis.call("HMGET", keys.INDEX_BYTES, *names) if names else []
        entries = [RepositoryEntry(n, int(c), int(s or 0)) for n, c, s in zip(names, counts, sizes, strict=True)]
        return entries, names[-1] if len(found) > limit > 0 else None

    def tags(self, repository: str, *, limit: int, after: str = "") -> tuple[list[str], str | None]:
        """Return at most *limit* tags, as `repositories` does. Raises CatalogRebuilding.

        Raises RepositoryNotHeld if the repository has no tags.
        """
        self._require_built()
        if not self._redis.call("EXISTS", keys.index_entries(repository)):
            raise RepositoryNotHeld(repository)
        low, high = f"({repository}:{after}", f"({repository};"  # the character after ':' is the semicolon
        found = self._redis.call("ZRANGEBYLEX", keys.INDEX_IMAGES, low, high, "LIMIT", 0, limit + 1)
        tags = [tag for _, tag in _split(found)]
        return tags[:limit], tags[limit - 1] if len(tags) > limit > 0 else None

    def images(
        self, *, limit: int, after: str = "", repository: str | None = None, wanted: Callable[[ImageEntry], bool]
    ) -> tuple[list[ImageEntry], str | None]:
        """Return at most *limit* images that are *wanted*, in the order of ``repository:tag``, as `repositories` does.

        A *repository* restricts what is read, not only what is returned. Raises CatalogRebuilding.
        """
        self._require_built()
        low = f"({after}" if after else f"[{repository}:" if repository else "-"
        high = f"({repository};" if repository else "+"
        found: list[ImageEntry] = []
        while len(found) <= limit:
            names = self._redis.call("ZRANGEBYLEX", keys.INDEX_IMAGES, low, high, "LIMIT", 0, _READ_AT_ONCE)
            if not names:
                break
            found += [entry for entry in self._entries(names) if wanted(entry)]
            low = f"({names[-1]}"
        last = found[limit - 1] if len(found) > limit > 0 else None
        return found[:limit], f"{last.repository}:{last.tag}" if last else None

    def _entries(self, names: Sequence[str]) -> list[ImageEntry]:
        commands = [["HGET", keys.index_entries(repository), tag] for repository, tag in _split(names)]
        return [_entry(text) for text in self._redis.calls(commands) if text]

    def _require_built(self) -> None:
        if not self.is_built():
            raise CatalogRebuilding


class IndexRebuild:
    """Writes the index while it is rebuilt. Every method raises RedisUnavailable."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._put_unchanged = redis.script(_PUT_UNCHANGED)
        self._note_progress = redis.script(_NOTE_PROGRESS)
        self._finish = redis.script(_FINISH)

    def begin(self) -> str:
        """Note that a rebuild has begun, in place of any other. Return its id."""
        rebuild = secrets.token_hex(8)
        self._redis.call("HSET", keys.INDEX_REBUILD, "run", rebuild, "tags", 0, "repository", "")
        return rebuild

    def put_unchanged(self, entries: Iterable[tuple[ImageEntry, Mapping[Digest, int]]]) -> None:
        """List what a rebuild has read. A tag that was changed since the index was lost is left as it is."""
        self._put_unchanged.many([_put_run(entry, sizes) for entry, sizes in entries])

    def note_progress(self, rebuild: str, tags: int, repository: str) -> bool:
        """Note how far the rebuild is. Return False if Redis lost its data meanwhile, or another rebuild began."""
        return bool(self._note_progress(args=[rebuild, tags, repository]))

    def finish(self, rebuild: str) -> bool:
        """Mark the index as built, so that lists are served. Return False as `note_progress` does."""
        return bool(self._finish(args=[rebuild]))

    def all_tags(self) -> list[tuple[str, str]]:
        """Return every (repository, tag) in the index, whether or not it is built."""
        return _split(self._redis.call("ZRANGEBYLEX", keys.INDEX_IMAGES, "-", "+"))

    def tags_of(self, repository: str) -> list[str]:
        """Return every tag of a repository in the index, whether or not it is built."""
        return list(self._redis.call("HKEYS", keys.index_entries(repository)))


def _put_run(entry: ImageEntry, sizes: Mapping[Digest, int]) -> Run:
    stored = {"entry": entry.to_json(), "sizes": {str(digest): size for digest, size in sizes.items()}}
    return _keys(entry.repository), [entry.repository, entry.tag, json.dumps(stored)]


def _keys(repository: str) -> list[str]:
    return [keys.index_entries(repository), keys.index_blobs(repository), keys.index_checked(repository)]


def _split(names: Iterable[str]) -> list[tuple[str, str]]:
    """Return repository and tag of each ``repository:tag``."""
    return [(repository, tag) for repository, _, tag in (name.rpartition(":") for name in names)]


def _entry(stored: str) -> ImageEntry:
    return ImageEntry.from_json(_stored_entry(stored))


def _stored_entry(stored: str) -> str:
    entry: str = json.loads(stored)["entry"]
    return entry
