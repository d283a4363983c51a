"""What tags show, in Redis: so that a pull by tag needs no request to S3.

The bucket is the truth. This copy of it is never older, for these reasons:

- A change of a tag holds the tag's lease. It writes ``?`` here before it changes the bucket, and the new digest after
  that. The change is reported only then. A reader that finds ``?`` reads the bucket.
- A change that fails, or whose process dies, leaves the ``?``. So readers ask the bucket until the next change.
- A change whose lease was lost does not write the new digest. Another process may have changed the tag since. It
  writes ``?`` once more.
- A reader keeps what it read in the bucket only if nothing is written here yet. Every change writes something first,
  also a deletion. So a reader that was slow does not bring an old digest back.
- A Redis that restarts, or is replaced by its replica, may have lost the last writes. Everything is kept under the
  ``run_id`` of the server. So after that, every tag is read from the bucket once more.
- A Redis that is emptied (``FLUSHALL``) does not restart. So everything is kept under an epoch, too, which is lost with
  the rest. A reader that began before that, or found no epoch, keeps nothing.

Two failures are not covered, and both also break the lease itself: a replica that is promoted while its primary still
serves clients, and a program other than the mirror that writes to the bucket.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from mirror.locks.lease import Lease
from mirror.oci.digest import Digest
from mirror.redis.client import Redis
from mirror.redis.scripts import load_script

_UNUSED_SECONDS: Final = 7 * 86_400
"""A repository that was not written for so long is forgotten. A reader takes seconds, so it never misses a change."""
_CONSTANTS: Final = {"UNUSED_SECONDS": _UNUSED_SECONDS}
_READ: Final = load_script("mirror.catalog", "read_current_tags.lua", constants=_CONSTANTS)
_KEEP: Final = load_script("mirror.catalog", "keep_current_tag.lua", constants=_CONSTANTS)
_BEGIN: Final = load_script("mirror.catalog", "begin_tag_change.lua", constants=_CONSTANTS)
_END: Final = load_script("mirror.catalog", "end_tag_change.lua", constants=_CONSTANTS)
_CHANGING: Final = "?"
_ABSENT: Final = ""


@dataclass(frozen=True, slots=True)
class KnownTag:
    """What Redis knows of a tag: its digest, that it is absent, or neither.

    *life* identifies a Redis that has lost nothing since. It is empty if Redis was emptied.
    """

    life: str
    digest: Digest | None
    is_absent: bool
    is_changing: bool


class CurrentTags:
    """Reads and changes what tags show. Every method raises RedisUnavailable. Safe to share between threads."""

    def __init__(self, redis: Redis) -> None:
        self._read = redis.script(_READ)
        self._keep = redis.script(_KEEP)
        self._begin = redis.script(_BEGIN)
        self._end = redis.script(_END)

    def read(self, repositories: Sequence[str], tag: str) -> list[KnownTag]:
        """Return what is known of *tag* in each of the repositories, in one round trip."""
        life, *found = self._read(args=[tag, *repositories])
        return [_known(life, shown) for shown in found]

    def keep(self, known: KnownTag, repository: str, tag: str, digest: Digest | None) -> None:
        """Keep what was read from the bucket after *known* was read here. None: the bucket has no such tag."""
        if not known.is_changing:
            self._keep(args=[known.life, repository, tag, _shown(digest)])

    def begin_change(self, lease: Lease, repository: str, tag: str) -> bool:
        """Renew the tag's lease and let readers ask the bucket. Return False if the lease is no longer ours."""
        return bool(self._begin([lease.key], [lease.token, int(lease.seconds * 1000), repository, tag]))

    def end_change(self, lease: Lease, repository: str, tag: str, digest: Digest | None) -> bool:
        """Let readers see what the tag shows now, None if it was deleted. Return False if the lease was lost."""
        return bool(self._end([lease.key], [lease.token, repository, tag, _shown(digest)]))


def _known(life: str, shown: str | None) -> KnownTag:
    digest = Digest.parse(shown) if shown and shown != _CHANGING else None
    return KnownTag(life, digest, is_absent=shown == _ABSENT, is_changing=shown == _CHANGING)


def _shown(digest: Digest | None) -> str:
    return _ABSENT if digest is None else str(digest)
