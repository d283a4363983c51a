"""Large layers in the scripted registry: counting and holding back their bytes."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from mirror.oci import media_types
from mirror.oci.digest import Digest
from tests.support import images
from tests.support.fakes.registry import FakeRegistry, Reply, Request, Synthetic

_PIECE: Final = 64 * 1024
_CONTENT_RANGE: Final = re.compile(r"bytes (\d+)-(\d+)/\d+")


def put_large(
    registry: FakeRegistry, repository: str, tag: str | None, *large: Synthetic, small: tuple[images.Layer, ...] = ()
) -> images.TestImage:
    """Put an image into the registry whose last layers are *large*.

    They need no memory.
    """
    plain = images.image(*small)
    document = json.loads(plain.body)
    document["layers"] += [
        {"mediaType": images.OCI_LAYER, "digest": str(one.digest), "size": one.size} for one in large
    ]
    image = images.TestImage(json.dumps(document).encode(), media_types.OCI_MANIFEST, plain.blobs)
    for layer in large:
        registry.put_blob(repository, layer.digest, layer)
    registry.put(image, repository, tag)
    return image


@dataclass
class BlobRead:
    """One response with bytes of a blob from *start* on.

    *sent* is how many of them were sent so far.
    """

    digest: str
    start: int
    sent: int = 0


class Traffic:
    """A script that counts the bytes of blobs, each piece before it is sent."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._reads: list[BlobRead] = []
        self.total = 0
        """Bytes of all blobs."""

    def __call__(self, request: Request, reply: Reply) -> Reply | None:
        if request.method != "GET" or "/blobs/" not in request.path or reply.status not in (200, 206):
            return None
        read = BlobRead(request.path.rpartition("/")[2], start_of(reply))
        with self._lock:
            self._reads.append(read)
        reply.body = self._counted(in_pieces(reply.body), read)
        return reply

    def mark(self) -> int:
        """Return the current position, for the argument *since*."""
        with self._lock:
            return len(self._reads)

    def of(self, digest: Digest, since: int = 0) -> list[BlobRead]:
        """Return the reads of a blob since a position, ordered by their start."""
        with self._lock:
            found = [read for read in self._reads[since:] if read.digest == str(digest)]
        return sorted(found, key=lambda read: read.start)

    def sent(self, digest: Digest, since: int = 0) -> int:
        """Return how many bytes of the blob these reads sent."""
        return sum(read.sent for read in self.of(digest, since))

    def _counted(self, pieces: Iterator[bytes], read: BlobRead) -> Iterator[bytes]:
        for piece in pieces:
            read.sent += len(piece)
            with self._lock:
                self.total += len(piece)
            yield piece


class Hold:
    """A script that holds one blob back at an offset.

    A read that starts before *beyond* is sent whole. Of a read that starts there or later, the first *given* bytes are
    sent, and the rest after `let_go`.
    """

    def __init__(self, digest: Digest, beyond: int, *, given: int = 2**20) -> None:
        self.reached = threading.Event()
        self._digest = str(digest)
        self._beyond = beyond
        self._given = given
        self._opened = threading.Event()

    def __call__(self, request: Request, reply: Reply) -> Reply | None:
        if self._digest not in request.path or self._opened.is_set() or start_of(reply) < self._beyond:
            return None
        reply.hold = (self._given, self._opened)
        self.reached.set()
        return reply

    def let_go(self) -> None:
        self._opened.set()


@dataclass
class HeldLayer:
    """A layer whose first bytes are sent. The rest follows after *opened* is set."""

    reached: threading.Event
    opened: threading.Event


def held_layer(registry: FakeRegistry, name: str, *, size: int = 2**20) -> HeldLayer:
    """Put team/app:1 with a layer of which 1000 bytes are sent until it is opened."""
    layer = images.layer(name, size)
    registry.put(images.image(layer, images.layer(f"{name}-small")), "team/app", "1")
    held = HeldLayer(threading.Event(), threading.Event())

    def hold(request: Request, reply: Reply) -> Reply | None:
        if str(layer.digest) in request.path and not held.opened.is_set():
            reply.hold = (1000, held.opened)
            held.reached.set()
        return reply

    registry.script(hold)
    return held


def start_of(reply: Reply) -> int:
    """Return the offset in the blob at which the reply's bytes start."""
    found = _CONTENT_RANGE.fullmatch(reply.headers.get("Content-Range", ""))
    return int(found[1]) if found else 0


def in_pieces(body: bytes | Iterator[bytes]) -> Iterator[bytes]:
    """Yield the body in pieces of at most 64 KiB."""
    for whole in [body] if isinstance(body, bytes) else body:
        for start in range(0, len(whole), _PIECE):
            yield whole[start : start + _PIECE]
