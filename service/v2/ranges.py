"""Read the Range and If-Range of a request for a blob (RFC 9110, 13.1.5 and 14). No I/O."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from service.http.problems import RangeUnsatisfiable

_SPEC: Final = re.compile(r"([0-9]+)-([0-9]*)|-([0-9]+)", re.ASCII)
_LONGEST_NUMBER: Final = 18
"""Digits. A number with more is larger than any blob, and Python refuses to parse very long ones."""
_OPTIONAL_BLANK: Final = " \t"


@dataclass(frozen=True, slots=True)
class RequestedRange:
    """The bytes of a blob from ``start`` up to, not including, ``stop``."""

    start: int
    stop: int

    @property
    def length(self) -> int:
        return self.stop - self.start


def requested_range(header: str | None, size: int) -> RequestedRange | None:
    """Return the part that a Range header requests of *size* bytes, or None for all of them.

    Another unit than bytes must be ignored (14.2), and several ranges may be. S3 ignores them too. Ranges that no byte
    is in do not count. Raises RangeUnsatisfiable if none is left, and for a malformed range (15.5.17).
    """
    unit, equals, text = (header or "").partition("=")
    if not equals or unit.strip(_OPTIONAL_BLANK).lower() != "bytes":
        return None
    specs = [spec for part in text.split(",") if (spec := part.strip(_OPTIONAL_BLANK))]
    found = [part for spec in specs if (part := _part(spec, size))]
    if not found:
        raise RangeUnsatisfiable(size)
    is_empty = found[0].length == 0  # no Content-Range can say so
    return None if is_empty or len(found) > 1 else found[0]


def is_same_version(if_range: str | None, etag: str) -> bool:
    """Whether the range still applies. A weak ETag or a date never matches: the mirror sends strong ETags only."""
    return if_range is None or if_range.strip(_OPTIONAL_BLANK) == etag


def _part(spec: str, size: int) -> RequestedRange | None:
    """Return the bytes that one range-spec covers, None if the blob has none of them.

    A suffix covers an empty blob, and the whole of a blob that is shorter (14.1.2). Raises RangeUnsatisfiable.
    """
    match = _SPEC.fullmatch(spec)
    if match is None:
        raise RangeUnsatisfiable(size, "the Range header is malformed")
    first, last, suffix = match.groups()
    if suffix is not None:
        length = _number(suffix)
        return RequestedRange(max(0, size - length), size) if length else None
    start = _number(first)
    if last and _number(last) < start:
        raise RangeUnsatisfiable(size, "the requested range ends before it begins")
    if start >= size:
        return None
    return RequestedRange(start, min(_number(last) + 1, size) if last else size)


def _number(digits: str) -> int:
    significant = digits.lstrip("0")
    return int(significant or "0") if len(significant) <= _LONGEST_NUMBER else 10**_LONGEST_NUMBER
