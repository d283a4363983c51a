"""A cache of manifests by digest. The content of a digest never changes, so nothing here becomes stale.

Whether a repository may serve a manifest is not cached here: see pulls.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from threading import Lock
from typing import Final

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


class ManifestCache:
    """Holds bodies of up to *largest* bytes in total, and the descriptions of many more. Least recently used go first.

    Safe to share between threads.
    """

    def __init__(self, largest: int = LARGEST, *, most_types: int = _MOST_TYPES) -> None:
        self._largest = largest
        self._described: LRUCache[Digest, Described] = LRUCache(most_types)
        self._bodies: LRUCache[Digest, bytes] = LRUCache(largest, getsizeof=len)
        self._lock = Lock()

    def described(self, digest: Digest) -> Described | None:
        """Return the manifest's type and size, if its bytes were checked against *digest* before."""
        with self._lock:
            return self._described.get(digest)

    def body(self, digest: Digest) -> bytes | None:
        with self._lock:
            return self._bodies.get(digest)

    def put(self, digest: Digest, described: Described, body: bytes) -> None:
        """Keep a manifest. The caller has checked its bytes against *digest*."""
        with self._lock:
            self._described[digest] = described
            if len(body) <= self._largest:
                self._bodies[digest] = body
