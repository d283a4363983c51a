"""The index that lists are answered from: in Redis, lexical, and no truth of its own.

S3's own order is not the one the distribution spec wants (``1.0-alpine/`` sorts before ``1.0/``), and listing a bucket
is slow; so each change of a tag is noted here after its commit, under the tag's lease. When Redis has lost the index,
lists answer CATALOG_REBUILDING until `rebuild` has read the bucket, rather than leave images out.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, NamedTuple

from mirror.catalog.entry import ImageEntry, Listed, RepositoryEntry
from mirror.errors import CatalogRebuilding, RepositoryNotHeld
from mirror.oci.digest import Digest
from mirror.redis import keys
from mirror.redis.client import Redis
from mirror.redis.scripts import Run

_SCAN: Final = 200

_LIBRARY: Final = f"""
local repository, tag = ARGV[1], ARGV[2]
local entries, blobs = KEYS[1], KEYS[2]
local function drop(sizes)
  local freed = 0
  for digest, size in pairs(sizes) do
    local references = tonumber(redis.call('HINCRBY', blobs, digest, -1))
    if references <= 0 then redis.call('HDEL', blobs, digest) freed = freed + size end
  end
  return freed
end
local function forget()
  local before = redis.call('HGET', entries, tag)
  if not before then return 0 end
  redis.call('HDEL', entries, tag)
  redis.call('ZREM', '{keys.INDEX_IMAGES}', repository .. ':' .. tag)
  return drop(cjson.decode(before).sizes)
end
local function settle(change)
  if redis.call('HLEN', entries) == 0 then
    redis.call('DEL', blobs)
    redis.call('ZREM', '{keys.INDEX_REPOSITORIES}', repository)
    redis.call('HDEL', '{keys.INDEX_BYTES}', repository)
  else
    redis.call('ZADD', '{keys.INDEX_REPOSITORIES}', 0, repository)
    redis.call('HINCRBY', '{keys.INDEX_BYTES}', repository, string.format('%d', change))
  end
end
"""
_NOTE: Final = f"""
if redis.call('EXISTS', '{keys.INDEX_BUILT}') == 0 then
  redis.call('SADD', '{keys.INDEX_CHANGED}', repository .. ':' .. tag)
end
"""
_PASS_OVER_CHANGED: Final = f"""
if redis.call('SISMEMBER', '{keys.INDEX_CHANGED}', repository .. ':' .. tag) == 1 then return end
"""
_LIST: Final = f"""
local freed, added = forget(), 0
for digest, size in pairs(cjson.decode(ARGV[3]).sizes) do
  if tonumber(redis.call('HINCRBY', blobs, digest, 1)) == 1 then added = added + size end
end
redis.call('HSET', entries, tag, ARGV[3])
redis.call('ZADD', '{keys.INDEX_IMAGES}', 0, repository .. ':' .. tag)
settle(added - freed)
"""
_PUT: Final = _LIBRARY + _NOTE + _LIST
_PUT_UNCHANGED: Final = _LIBRARY + _PASS_OVER_CHANGED + _LIST
_REMOVE: Final = _LIBRARY + _NOTE + "settle(-forget())"
_NOTE_PROGRESS: Final = f"""
if redis.call('HGET', '{keys.INDEX_REBUILD}', 'run') ~= ARGV[1] then return 0 end
redis.call('HSET', '{keys.INDEX_REBUILD}', 'tags', ARGV[2], 'repository', ARGV[3])
return 1
"""
_FINISH: Final = f"""
if redis.call('HGET', '{keys.INDEX_REBUILD}', 'run') ~= ARGV[1] then return 0 end
redis.call('SET', '{keys.INDEX_BUILT}', 1)
redis.call('DEL', '{keys.INDEX_REBUILD}', '{keys.INDEX_CHANGED}')
return 1
"""


class RebuildProgress(NamedTuple):
    """How far a rebuild is: the tags that are done, and the repository of the last one. Names come in lexical order."""

    tags: int
    repository: str


class CatalogIndex:
    """Reads and changes the index. Changes are made under the tag's lease, so the last commit is also listed last."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._put = redis.script(_PUT)
        self._put_unchanged = redis.script(_PUT_UNCHANGED)
        self._remove = redis.script(_REMOVE)
        self._note_progress = redis.script(_NOTE_PROGRESS)
        self._finish = redis.script(_FINISH)

    def put(self, entry: ImageEntry, sizes: Mapping[Digest, int]) -> None:
        """List *entry*; *sizes* are the bytes of everything the image needs, for the repository's sum."""
        self._put(*_put_run(entry, sizes))

    def put_unchanged(self, entries: Iterable[tuple[ImageEntry, Mapping[Digest, int]]]) -> None:
        """List what a rebuild has read. Tags whose change was listed since the index was lost stay as they are."""
        self._put_unchanged.many([_put_run(entry, sizes) for entry, sizes in entries])

    def replace(self, entry: ImageEntry) -> None:
        """Put *entry* in the place of the one of the same tag, if that still shows the same image."""
        key = keys.index_entries(entry.repository)
        stored = self._redis.call("HGET", key, entry.tag)
        if stored and _entry(stored).digest == entry.digest:
            self._redis.call("HSET", key, entry.tag, json.dumps({**json.loads(stored), "entry": entry.to_json()}))

    def remove(self, repository: str, tag: str) -> None:
        self._remove(_keys(repository), [repository, tag])

    def is_built(self) -> bool:
        return bool(self._redis.call("EXISTS", keys.INDEX_BUILT))

    def begin_rebuild(self, run: str) -> None:
        """Note that the rebuild *run* has begun, in the place of any other."""
        self._redis.call("HSET", keys.INDEX_REBUILD, "run", run, "tags", 0, "repository", "")

    def note_progress(self, run: str, tags: int, repository: str) -> bool:
        """Note how far a rebuild is. Returns False if Redis lost its data since it began, or another one began."""
        return bool(self._note_progress(args=[run, tags, repository]))

    def progress(self) -> RebuildProgress | None:
        """How far the rebuild is, None if none has begun."""
        tags, repository = self._redis.call("HMGET", keys.INDEX_REBUILD, "tags", "repository")
        return None if tags is None else RebuildProgress(int(tags), repository or "")

    def finish_rebuild(self, run: str) -> bool:
        """End the rebuild *run*: lists are answered from now on. Returns False as `note_progress` does."""
        return bool(self._finish(args=[run]))

    def entry(self, repository: str, tag: str) -> ImageEntry | None:
        found = self._redis.call("HGET", keys.index_entries(repository), tag)
        return _entry(found) if found else None

    def look_up(self, repository: str, tag: str) -> tuple[ImageEntry | None, bool]:
        """What is listed of the tag, and whether the index is built: else the tag may be there without an entry."""
        commands = [["HGET", keys.index_entries(repository), tag], ["EXISTS", keys.INDEX_BUILT]]
        found, is_built = self._redis.calls(commands)
        return _entry(found) if found else None, bool(is_built)

    def look_up_all(self, tags: Sequence[tuple[str, str]]) -> list[Listed | None]:
        """For each (repository, tag) what is listed of it, None where nothing is; in one turn."""
        found = self._redis.calls([["HGET", keys.index_entries(repository), tag] for repository, tag in tags])
        return [Listed.from_json(_stored_entry(text)) if text else None for text in found]

    def repositories(self, *, limit: int, after: str = "") -> tuple[list[RepositoryEntry], str | None]:
        """At most *limit* repositories in lexical order behind *after*, and the name to go on from, if any are left."""
        names, more = self._names(keys.INDEX_REPOSITORIES, limit, after)
        counts = self._redis.calls([["HLEN", keys.index_entries(name)] for name in names])
        sizes = self._redis.call("HMGET", keys.INDEX_BYTES, *names) if names else []
        entries = [RepositoryEntry(n, int(c), int(s or 0)) for n, c, s in zip(names, counts, sizes, strict=True)]
        return entries, more

    def tags(self, repository: str, *, limit: int, after: str = "") -> tuple[list[str], str | None]:
        """At most *limit* tags behind *after*; raises RepositoryNotHeld where there is no tag at all."""
        self._require_built()
        if not self._redis.call("EXISTS", keys.index_entries(repository)):
            raise RepositoryNotHeld(repository)
        low, high = f"({repository}:{after}", f"({repository};"  # ';' follows ':'
        found = self._redis.call("ZRANGEBYLEX", keys.INDEX_IMAGES, low, high, "LIMIT", 0, limit + 1)
        tags = [name.rpartition(":")[2] for name in found]
        return tags[:limit], tags[limit - 1] if len(tags) > limit > 0 else None

    def images(
        self, *, limit: int, after: str = "", repository: str | None = None, wanted: Callable[[ImageEntry], bool]
    ) -> tuple[list[ImageEntry], str | None]:
        """At most *limit* images that are *wanted*, in lexical order of ``repository:tag`` behind *after*.

        Also the name to go on from, if any are left. A repository narrows what is read, not only what is answered.
        """
        self._require_built()
        low = f"({after}" if after else f"[{repository}:" if repository else "-"
        high = f"({repository};" if repository else "+"
        found: list[ImageEntry] = []
        while len(found) <= limit:
            names = self._redis.call("ZRANGEBYLEX", keys.INDEX_IMAGES, low, high, "LIMIT", 0, _SCAN)
            if not names:
                break
            found += [entry for entry in self._entries(names) if wanted(entry)]
            low = f"({names[-1]}"
        last = found[limit - 1] if len(found) > limit > 0 else None
        return found[:limit], f"{last.repository}:{last.tag}" if last else None

    def listed(self) -> list[tuple[str, str]]:
        """Every (repository, tag) in the index, whether or not it is built: for the rebuild."""
        names = self._redis.call("ZRANGEBYLEX", keys.INDEX_IMAGES, "-", "+")
        return [(name.rpartition(":")[0], name.rpartition(":")[2]) for name in names]

    def listed_tags(self, repository: str) -> list[str]:
        """Every tag of a repository in the index, whether or not it is built."""
        return list(self._redis.call("HKEYS", keys.index_entries(repository)))

    def _names(self, key: str, limit: int, after: str) -> tuple[list[str], str | None]:
        self._require_built()
        found = list(self._redis.call("ZRANGEBYLEX", key, f"({after}" if after else "-", "+", "LIMIT", 0, limit + 1))
        return found[:limit], found[limit - 1] if len(found) > limit > 0 else None

    def _entries(self, names: list[str]) -> list[ImageEntry]:
        pairs = [(name.rpartition(":")[0], name.rpartition(":")[2]) for name in names]
        found = self._redis.calls([["HGET", keys.index_entries(repository), tag] for repository, tag in pairs])
        return [_entry(text) for text in found if text]

    def _require_built(self) -> None:
        if not self.is_built():
            raise CatalogRebuilding


def _put_run(entry: ImageEntry, sizes: Mapping[Digest, int]) -> Run:
    stored = {"entry": entry.to_json(), "sizes": {str(digest): size for digest, size in sizes.items()}}
    return _keys(entry.repository), [entry.repository, entry.tag, json.dumps(stored)]


def _keys(repository: str) -> list[str]:
    return [keys.index_entries(repository), keys.index_blobs(repository)]


def _entry(stored: str) -> ImageEntry:
    return ImageEntry.from_json(_stored_entry(stored))


def _stored_entry(stored: str) -> str:
    entry: str = json.loads(stored)["entry"]
    return entry
