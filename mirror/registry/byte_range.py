"""Ranges of a blob: how one is asked for, and which bytes an answer really holds (RFC 9110, 14)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Self

from mirror.errors import SizeInvalid, SourceFailed
from mirror.http.documents import PORTAL_HINT, is_html
from mirror.http.headers import announced_length, codings, only_element
from mirror.http.transport import Answer
from mirror.oci.descriptor import Descriptor

SMALLEST_PIECE: Final = 64 * 1024
"""Bytes of a range below which a server that sends less than it was asked for is asked without ranges."""
_CONTENT_RANGE: Final = re.compile(
    r"bytes\s*[ =:]\s*([0-9]{1,19})\s*-\s*([0-9]{1,19})\s*(?:/\s*(?:([0-9]{1,19})|\*)?)?", re.ASCII | re.IGNORECASE
)


class RangeUnusable(SourceFailed):
    """What came for a request with a range is no part of the blob that can be used."""

    def __init__(self, registry: str) -> None:
        super().__init__(registry, "it answered with another range than asked for")


@dataclass(frozen=True, slots=True)
class ByteRange:
    """*length* bytes of a blob from *start* on."""

    start: int
    length: int

    @classmethod
    def of(cls, blob: Descriptor, offset: int, length: int | None) -> Self:
        """The range from *offset* on, to the blob's end where no *length* is given; ValueError outside the blob."""
        count = blob.size - offset if length is None else length
        if offset < 0 or count < 0 or offset + count > blob.size:
            raise ValueError(f"{count} bytes from {offset} on are not within {blob.size}")
        return cls(offset, count)

    @property
    def end(self) -> int:
        """The byte after the last one."""
        return self.start + self.length

    def headers(self, blob: Descriptor) -> dict[str, str]:
        """Empty where the whole blob is wanted, and where no byte is: HTTP cannot ask for that.

        Both ends are named: some servers refuse a range without an end.
        """
        if self.length in (0, blob.size):
            return {}
        return {"Range": f"bytes={self.start}-{self.end - 1}"}

    def answered(self, answer: Answer, blob: Descriptor) -> ByteRange:
        """What the body holds: a piece that begins where this range does, or the whole blob.

        A piece may be shorter or longer than was asked for. A server that knows no ranges sends the whole blob. Some
        object stores send a piece with status 200 (rclone), so the Content-Range tells. Raises RangeUnusable for any
        other piece, SizeInvalid where the whole blob is announced with another length.
        """
        announced = announced_length(answer.headers)
        asked = answer.asked_for_range
        told = _told(answer, blob) if asked or answer.status == 206 else None
        if told and self._can_use(told, blob) and announced in (None, told.length):
            return told
        if asked and (answer.status == 206 or announced not in (None, blob.size)):
            raise RangeUnusable(answer.registry)
        if announced not in (None, blob.size):
            raise wrong_size(answer, blob, announced or 0)
        return ByteRange(0, blob.size)

    def _can_use(self, told: ByteRange, blob: Descriptor) -> bool:
        if (told.start, told.length) == (0, blob.size):
            return True
        long_enough = told.end >= min(self.end, self.start + SMALLEST_PIECE)
        return told.start == self.start and long_enough


def wrong_size(answer: Answer, blob: Descriptor, actual: int | str) -> SizeInvalid:
    """The error for a whole blob of another size; its hint says what the answer's labels let suspect."""
    hint = None
    if is_html(answer.headers):
        hint = f"It came as an HTML page. {PORTAL_HINT}"
    elif encoded := codings(answer.headers):
        hint = (
            f"It came labelled 'Content-Encoding: {', '.join(encoded)[:80]}', though it was asked for as it is stored: "
            "a server or proxy on the way seems to compress it. Have that turned off."
        )
    return SizeInvalid(str(blob.digest), blob.size, actual, hint=hint)


def _told(answer: Answer, blob: Descriptor) -> ByteRange | None:
    """The piece that the Content-Range names. None if there is none, or none of this blob."""
    match = _CONTENT_RANGE.fullmatch(only_element(answer.headers, "Content-Range") or "")
    if not match or int(match[3] or blob.size) != blob.size:
        return None
    start, last = int(match[1]), int(match[2])
    return ByteRange(start, last + 1 - start) if start <= last < blob.size else None
