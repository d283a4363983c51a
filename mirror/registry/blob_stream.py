"""The bytes of one blob, or of a range of it, as they arrive."""

from __future__ import annotations

from collections.abc import Callable
from typing import Self

from mirror.errors import AnswerTruncated, MirrorError
from mirror.http.headers import codings, elements
from mirror.http.translation import translated
from mirror.http.transport import Answer
from mirror.oci.descriptor import Descriptor
from mirror.registry.byte_range import ByteRange, wrong_size


class BlobStream:
    """``length`` bytes of a blob from ``start`` on; never more than that.

    It holds what was asked for, a shorter or longer piece that begins there, or the whole blob where the server knows
    no ranges: ``start`` and ``length`` tell.
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
            raise self._too_short()
        if count > self._left:
            raise wrong_size(self._answer, self._blob, "more")
        self._left -= count
        if self._left == 0:
            self._done()
        return count

    def _too_short(self) -> MirrorError:
        """An end before the last byte: the connection's, unless chunks ended in good order and a label says why."""
        headers = self._answer.headers
        if codings(headers) and elements(headers, "Transfer-Encoding"):
            return wrong_size(self._answer, self._blob, "fewer")
        return AnswerTruncated(self._answer.registry, str(self._blob.digest))

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
