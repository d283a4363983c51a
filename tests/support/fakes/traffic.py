"""Count the bytes of blobs that the scripted registry sends."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from mirror.oci.digest import Digest
from tests.support.fakes.registry import Reply, Request

_PIECE: Final = 64 * 1024
_CONTENT_RANGE: Final = re.compile(r"bytes (\d+)-(\d+)/\d+")


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


def start_of(reply: Reply) -> int:
    """Return the offset in the blob at which the reply's bytes start."""
    found = _CONTENT_RANGE.fullmatch(reply.headers.get("Content-Range", ""))
    return int(found[1]) if found else 0


def in_pieces(body: bytes | Iterator[bytes]) -> Iterator[bytes]:
    """Yield the body in pieces of at most 64 KiB."""
    for whole in [body] if isinstance(body, bytes) else body:
        for start in range(0, len(whole), _PIECE):
            yield whole[start : start + _PIECE]
