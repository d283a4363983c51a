"""A registry whose images share base layers and whose tags move.

It records which digest each tag had when.
"""

from __future__ import annotations

import random
import threading
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from math import inf
from time import monotonic
from typing import Final

from tests.e2e import sources
from tests.support import images
from tests.support.fakes.registry import FakeRegistry, Reply, Request, Synthetic
from tests.support.fakes.traffic import Traffic, in_pieces

MIB: Final = 2**20
RATE: Final = 6 * MIB
"""Bytes per second of one connection, so slow that kills happen in the middle of blobs."""
_IMAGES_PER_BASE: Final = 5


@dataclass
class Version:
    """The digest that a tag had until *replaced*."""

    digest: str
    replaced: float = inf


class Upstream:
    """Generates images from a seed.

    Only one thread calls `source`, any thread may call the rest.
    """

    def __init__(self, registry: FakeRegistry, rng: random.Random) -> None:
        self.registry = registry
        self.traffic = Traffic()
        self._rng = rng
        self._made = 0
        self._lock = threading.Lock()
        self._history: dict[str, list[Version]] = defaultdict(list)
        self._ended = threading.Event()
        registry.script(self._pace)
        registry.script(self.traffic)

    def end(self) -> None:
        """Send the rest of all blobs without pacing."""
        self._ended.set()

    def source(self) -> str:
        """Return what to mirror next, as ``repository:tag``.

        It is a new image, a moved tag, or an unchanged one.
        """
        chance = self._rng.random()
        known = list(self._history)
        if not known or chance < 0.5:
            source = f"team/app-{self._rng.randrange(6)}:{len(known)}"
        else:
            source = self._rng.choice(known[-12:])
        if source not in known or chance < 0.8:
            self._push(source)
        return source

    def digests_since(self, source: str, since: float = 0.0) -> set[str]:
        """Return every digest that the tag had since then."""
        with self._lock:
            return {version.digest for version in self._history[source] if version.replaced >= since}

    def _push(self, source: str) -> None:
        """Put blobs and manifest first and the tag last, as a registry receives them."""
        repository, _, tag = source.partition(":")
        base = self._made // _IMAGES_PER_BASE
        self._made += 1
        shared = Synthetic(_size(f"base-{base}", 20, 60), f"base-{base}")
        own = Synthetic(_size(f"own-{self._made}", 1, 20), f"own-{self._made}")
        small = tuple(images.layer(f"small-{self._made}-{number}", 20_000) for number in range(3))
        image = sources.put_large(self.registry, repository, None, shared, own, small=small)
        with self._lock:
            self._history[source].append(Version(str(image.digest)))
        self.registry.put(image, repository, tag)
        with self._lock:
            for version in self._history[source][:-1]:
                version.replaced = min(version.replaced, monotonic())

    def _pace(self, request: Request, reply: Reply) -> Reply | None:
        if request.method != "GET" or "/blobs/" not in request.path:
            return None
        reply.body = self._paced(reply.body)
        return reply

    def _paced(self, body: bytes | Iterator[bytes]) -> Iterator[bytes]:
        for piece in in_pieces(body):
            self._ended.wait(len(piece) / RATE)
            yield piece


def _size(seed: str, least: int, most: int) -> int:
    """Return a size in bytes, which is rarely a whole number of parts."""
    return random.Random(seed).randrange(least * MIB, most * MIB)
