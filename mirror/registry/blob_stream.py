"""The bytes of one blob, or of a range of it, as they arrive."""

from __future__ import annotations

from collections.abc import Callable
from typing import Self

from mirror.errors import AnswerTruncated, MirrorError, SizeInvalid
from mirror.oci.descriptor import Descriptor
from mirror.registry.byte_range import ByteRange
from mirror.registry.transport import Answer, translated


class BlobStream:
    """``length`` bytes of a blob from ``start`` on; never more than that.

    It holds what was asked for, or the whole blob where the server knows no ranges: ``start`` and ``length`` tell.
    *broken* is told an error of `readinto` before it is raised, *done* is called when the last byte has come, or the
    stream is closed.
    """

    def __init__(
        self,
        answer: Answer,
        blob: Descriptor,
        held: ByteRange,
        *,
        broken: Callable[[MirrorError], None],
        done: Callable[[], None],
    ) -> None:
        self.start = held.start
        self.length = held.length
        self._answer = answer
        self._blob = blob
        self._left = held.length
        self._broken = broken
        self._done = done

    def readinto(self, buffer: memoryview) -> int:
        """Fill the buffer as far as bytes are left, and say how many came; 0 only behind the last one.

        Raises AnswerTruncated if the body ended early, SourceUnreachable if the connection broke or was interrupted,
        SizeInvalid if there are more bytes than described.
        """
        try:
            return self._read_into(buffer) if len(buffer) else 0
        except MirrorError as error:
            self._broken(error)
            raise

    def _read_into(self, buffer: memoryview) -> int:
        with translated(self._answer.registry, str(self._blob.digest)):
            count = self._answer.read_into(buffer)
        if count == 0 and self._left:
            raise AnswerTruncated(self._answer.registry, str(self._blob.digest))
        if count > self._left:
            raise SizeInvalid(str(self._blob.digest), self._blob.size, "more")
        self._left -= count
        if self._left == 0:
            self._done()
        return count

    def interrupt(self) -> None:
        """Wake a `readinto` that waits, from any thread: it fails."""
        self._answer.interrupt()

    def close(self) -> None:
        """Give the connection back if all bytes were read, else drop it."""
        self._answer.close()
        self._done()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
