"""The one range a client may ask for (RFC 9110, 14)."""

from __future__ import annotations

from dataclasses import dataclass

from werkzeug.wrappers import Request

from mirror.oci.digest import Digest
from service.http.request_errors import RangeUnsatisfiable


@dataclass(frozen=True, slots=True)
class ByteRange:
    """From ``start`` up to, not including, ``stop``."""

    start: int
    stop: int

    @property
    def length(self) -> int:
        return self.stop - self.start


def asked_range(request: Request, digest: Digest, size: int) -> ByteRange | None:
    """The part of a blob of *size* bytes that is asked for; None for all of it.

    Several ranges, other units and malformed ones are answered with the whole, as the RFC allows; so is a range of
    another version (If-Range). Raises RangeUnsatisfiable for a range that begins behind the end.
    """
    asked = request.range
    if asked is None or asked.units != "bytes" or len(asked.ranges) != 1 or _is_of_another(request, digest):
        return None
    first, after_last = asked.ranges[0]
    if first < 0:  # a suffix: the last so many bytes, or all if there are fewer
        first, after_last = max(0, size + first), size
    if first >= size:
        raise RangeUnsatisfiable(size)
    return ByteRange(first, size if after_last is None else min(after_last, size))


def _is_of_another(request: Request, digest: Digest) -> bool:
    return "If-Range" in request.headers and request.if_range.etag != str(digest)
