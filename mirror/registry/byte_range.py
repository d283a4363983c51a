"""Ranges of a blob: how one is asked for, and which bytes an answer really holds (RFC 9110, 14)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Self

from mirror.errors import SizeInvalid, SourceFailed
from mirror.oci.descriptor import Descriptor
from mirror.registry.transport import Answer, declared_length

_CONTENT_RANGE: Final = re.compile(r"bytes ([0-9]{1,19})-([0-9]{1,19})/(?:([0-9]{1,19})|\*)", re.ASCII)


@dataclass(frozen=True, slots=True)
class ByteRange:
    """*length* bytes of a blob from *start* on; *open_ended* if it was asked for as all that follows."""

    start: int
    length: int
    open_ended: bool = False

    @classmethod
    def of(cls, blob: Descriptor, offset: int, length: int | None) -> Self:
        """The range from *offset* on, to the blob's end where no *length* is given; ValueError outside the blob."""
        count = blob.size - offset if length is None else length
        if offset < 0 or count < 0 or offset + count > blob.size:
            raise ValueError(f"{count} bytes from {offset} on are not within {blob.size}")
        return cls(offset, count, open_ended=length is None)

    def headers(self, blob: Descriptor) -> dict[str, str]:
        """Empty where the whole blob is wanted, and where no byte is: HTTP cannot ask for that."""
        if self.length in (0, blob.size):
            return {}
        end = "" if self.open_ended else str(self.start + self.length - 1)
        return {"Range": f"bytes={self.start}-{end}"}

    def answered(self, answer: Answer, blob: Descriptor) -> ByteRange:
        """What the body holds: this range where it is said so, the whole blob where the server knows no ranges.

        Some object stores send a range with status 200 (rclone): it is the Content-Range that tells. Raises
        SourceFailed for any other range, SizeInvalid where the announced length is another.
        """
        told = answer.headers.get("Content-Range")
        if answer.status == 206 or (told is not None and self.headers(blob)):
            self._require_told(told or "", answer.registry, blob)
            held = self
        else:
            held = ByteRange(0, blob.size)
        announced = declared_length(answer.headers)
        if announced and announced != held.length:
            raise SizeInvalid(str(blob.digest), blob.size, blob.size - held.length + announced)
        return held

    def _require_told(self, told: str, registry: str, blob: Descriptor) -> None:
        match = _CONTENT_RANGE.fullmatch(told)
        if (
            not match
            or (int(match[1]), int(match[2])) != (self.start, self.start + self.length - 1)
            or int(match[3] or blob.size) != blob.size
        ):
            raise SourceFailed(registry, "it answered with another range than asked for")
