"""What the source sent: each stretch of a blob that was asked for, and how much of it went out; and holding it up."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from mirror.oci.digest import Digest
from tests.fakes.registry import Reply, Request

_PIECE: Final = 64 * 1024
_CONTENT_RANGE: Final = re.compile(r"bytes (\d+)-(\d+)/\d+")


@dataclass
class Stretch:
    """One answer with bytes of a blob, from *start* on; *sent* of them were handed to the network so far."""

    digest: str
    start: int
    sent: int = 0


class Traffic:
    """A script for `FakeRegistry.script` that counts the bytes of blobs, piece by piece, before each is sent."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._stretches: list[Stretch] = []
        self.total = 0
        """Bytes of all blobs."""

    def __call__(self, request: Request, reply: Reply) -> Reply | None:
        if request.method != "GET" or "/blobs/" not in request.path or reply.status not in (200, 206):
            return None
        stretch = Stretch(request.path.rpartition("/")[2], start_of(reply))
        with self._lock:
            self._stretches.append(stretch)
        reply.body = self._counted(in_pieces(reply.body), stretch)
        return reply

    def mark(self) -> int:
        """This moment, for `of`."""
        with self._lock:
            return len(self._stretches)

    def of(self, digest: Digest, since: int = 0) -> list[Stretch]:
        """The blob's stretches that were asked for since that moment, in the blob's order."""
        with self._lock:
            found = [stretch for stretch in self._stretches[since:] if stretch.digest == str(digest)]
        return sorted(found, key=lambda stretch: stretch.start)

    def sent(self, digest: Digest, since: int = 0) -> int:
        """How many bytes of the blob went out in them."""
        return sum(stretch.sent for stretch in self.of(digest, since))

    def _counted(self, pieces: Iterator[bytes], stretch: Stretch) -> Iterator[bytes]:
        for piece in pieces:
            stretch.sent += len(piece)
            with self._lock:
                self.total += len(piece)
            yield piece


class Hold:
    """A script that lets everything of one blob pass that lies before *beyond*; of what is asked for from there on,
    the first *given* bytes. The rest comes when it is let go.
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
        reply.gate = (self._given, self._opened)
        self.reached.set()
        return reply

    def let_go(self) -> None:
        self._opened.set()


def start_of(reply: Reply) -> int:
    """Where in the blob the answer's bytes begin."""
    found = _CONTENT_RANGE.fullmatch(reply.headers.get("Content-Range", ""))
    return int(found[1]) if found else 0


def in_pieces(body: bytes | Iterator[bytes]) -> Iterator[bytes]:
    """The body in pieces of at most 64 KiB."""
    for whole in [body] if isinstance(body, bytes) else body:
        for start in range(0, len(whole), _PIECE):
            yield whole[start : start + _PIECE]
