"""The bytes of one blob as they arrive."""

from __future__ import annotations

from typing import Self

from mirror.errors import AnswerTruncated, SizeInvalid
from mirror.oci.descriptor import Descriptor
from mirror.registry.transport import Answer, translated


class BlobStream:
    """A blob's bytes from ``start`` on; never more than the descriptor says there are."""

    def __init__(self, answer: Answer, blob: Descriptor, *, start: int) -> None:
        self.start = start
        self._answer = answer
        self._blob = blob
        self._left = blob.size - start

    def readinto(self, buffer: memoryview) -> int:
        """Fill the buffer as far as bytes are left, and say how many came; 0 only at the blob's end.

        Raises AnswerTruncated if the body ended early, SourceUnreachable if the connection broke or was interrupted,
        SizeInvalid if there are more bytes than described.
        """
        if len(buffer) == 0:
            return 0
        with translated(self._answer.registry, str(self._blob.digest)):
            piece = self._answer.response.read(len(buffer), decode_content=False)
        if not piece and self._left:
            raise AnswerTruncated(self._answer.registry, str(self._blob.digest))
        if len(piece) > self._left:
            raise SizeInvalid(str(self._blob.digest), self._blob.size, "more")
        buffer[: len(piece)] = piece
        self._left -= len(piece)
        return len(piece)

    def interrupt(self) -> None:
        """Wake a `readinto` that waits, from any thread: it fails."""
        self._answer.interrupt()

    def close(self) -> None:
        self._answer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
