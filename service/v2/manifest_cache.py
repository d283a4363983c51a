"""A cache of manifests by digest. The content of a digest never changes, so nothing here becomes stale.

Whether a repository may serve a manifest is not cached: each request checks it.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from threading import Lock
from typing import Final

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
        self._most_types = most_types
        self._described: OrderedDict[Digest, Described] = OrderedDict()
        self._bodies: OrderedDict[Digest, bytes] = OrderedDict()
        self._bytes = 0
        self._lock = Lock()

    def described(self, digest: Digest) -> Described | None:
        """Return the manifest's type and size, if its bytes were checked against *digest* before."""
        with self._lock:
            if digest in self._described:
                self._described.move_to_end(digest)
            return self._described.get(digest)

    def body(self, digest: Digest) -> bytes | None:
        with self._lock:
            if digest in self._bodies:
                self._bodies.move_to_end(digest)
            return self._bodies.get(digest)

    def put(self, digest: Digest, described: Described, body: bytes) -> None:
        """Keep a manifest. The caller has checked its bytes against *digest*."""
        with self._lock:
            self._described[digest] = described
            if len(self._described) > self._most_types:
                self._described.popitem(last=False)
            if digest not in self._bodies and len(body) <= self._largest:
                self._bodies[digest] = body
                self._bytes += len(body)
            while self._bytes > self._largest:
                _, dropped = self._bodies.popitem(last=False)
                self._bytes -= len(dropped)
