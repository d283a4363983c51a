"""A cache of manifests by digest. The content of a digest never changes, so nothing here becomes stale.

Whether a repository may serve a manifest is not cached here: see pulls.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from threading import Lock
from typing import Final
from weakref import WeakValueDictionary

from cachetools import LRUCache

from mirror.oci.digest import Digest

LARGEST: Final = 32 * 2**20
"""Bytes of bodies that one process holds. The service has two processes."""
_MOST_TYPES: Final = 20_000


@dataclass(frozen=True, slots=True)
class Described:
    """The type and size of a manifest: all that HEAD needs."""

    media_type: str
    size: int


@dataclass(frozen=True, slots=True, weakref_slot=True, eq=False)
class Body:
    """The bytes of a manifest, as the body of a response. All responses that are being sent share one object."""

    content: bytes

    def __iter__(self) -> Iterator[bytes]:
        yield self.content


class ManifestCache:
    """Holds bodies of up to *largest* bytes in total, and the descriptions of many more. Least recently used go first.

    It also finds each body that is still being sent. So a thousand slow clients of one manifest hold its bytes once.
    Safe to share between threads.
    """

    def __init__(self, largest: int = LARGEST, *, most_types: int = _MOST_TYPES) -> None:
        self._largest = largest
        self._described: LRUCache[Digest, Described] = LRUCache(most_types)
        self._bodies: LRUCache[Digest, Body] = LRUCache(largest, getsizeof=lambda body: len(body.content))
        self._in_use: WeakValueDictionary[Digest, Body] = WeakValueDictionary()
        self._reading: WeakValueDictionary[Digest, Lock] = WeakValueDictionary()
        self._lock = Lock()

    def described(self, digest: Digest) -> Described | None:
        """Return the manifest's type and size, if its bytes were checked against *digest* before."""
        with self._lock:
            return self._described.get(digest)

    def body(self, digest: Digest) -> Body | None:
        with self._lock:
            return self._bodies.get(digest) or self._in_use.get(digest)

    def held(self, digest: Digest) -> tuple[Described, Body] | None:
        """Return the description and the body of a manifest, if both are here."""
        described, body = self.described(digest), self.body(digest)
        return None if described is None or body is None else (described, body)

    def reading(self, digest: Digest) -> Lock:
        """Return the lock for reading this manifest from the bucket."""
        with self._lock:
            return self._reading.setdefault(digest, Lock())

    def put(self, digest: Digest, described: Described, content: bytes) -> Body:
        """Keep a manifest, and return its body. The caller has checked the bytes against *digest*."""
        with self._lock:
            body = self._in_use.setdefault(digest, Body(content))
            self._described[digest] = described
            if len(content) <= self._largest:
                self._bodies[digest] = body
            return body
