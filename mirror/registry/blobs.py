"""Read blobs and ranges of blobs, from the registry or its last redirect target.

A range is requested and checked after RFC 9110, section 14.
"""

from __future__ import annotations

import re
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from time import monotonic
from typing import Final, Literal, Self

from mirror.errors import AnswerTruncated, BlobUnknown, MirrorError, SizeInvalid, SourceFailed
from mirror.http.deadlines import shared_deadline
from mirror.http.failures import translated
from mirror.http.redirects import Redirects
from mirror.http.response import HTML_HINT, Response
from mirror.oci.descriptor import Descriptor
from mirror.oci.digest import Digest
from mirror.oci.reference import Reference
from mirror.registry.authorized_request import AuthorizedRequests
from mirror.registry.throttle import ConcurrencyLimiter, RequestSlot, Sleep

SMALLEST_PIECE: Final = 64 * 1024
"""A server that sends less than this of a longer range is asked without ranges."""
TARGET_SECONDS: Final = 15 * 60.0
"""Seconds for which a redirect's target is reused. Presigned URLs are valid for about 20 minutes."""
MAX_TARGETS: Final = 512
FOUND: Final = (200, 206)
_CONTENT_RANGE: Final = re.compile(
    r"bytes\s*[ =:]\s*([0-9]{1,19})\s*-\s*([0-9]{1,19})\s*(?:/\s*(?:([0-9]{1,19})|\*)?)?", re.ASCII | re.IGNORECASE
)


class _RangeUnusable(SourceFailed):
    """The response to a request with a Range holds no usable part of the blob."""

    def __init__(self, registry: str) -> None:
        super().__init__(registry, "it answered with another range than asked for")


@dataclass(frozen=True, slots=True)
class BlobRange:
    """*length* bytes of a blob from *start* on."""

    start: int
    length: int

    @classmethod
    def of(cls, blob: Descriptor, offset: int, length: int | None) -> Self:
        """Return the range from *offset* on, to the blob's end if *length* is None.

        Raises ValueError if outside.
        """
        count = blob.size - offset if length is None else length
        if offset < 0 or count < 0 or offset + count > blob.size:
            raise ValueError(f"{count} bytes from {offset} on are not within {blob.size}")
        return cls(offset, count)

    @property
    def end(self) -> int:
        """The offset after the last byte."""
        return self.start + self.length

    def headers(self, blob: Descriptor) -> dict[str, str]:
        """Return the Range header.

        None is needed for the whole blob, and HTTP has none for zero bytes. Both ends are named, because some servers
        refuse a range without an end.
        """
        if self.length in (0, blob.size):
            return {}
        return {"Range": f"bytes={self.start}-{self.end - 1}"}

    def found_in(self, response: Response, blob: Descriptor) -> BlobRange:
        """Return the range in the body: a piece from this start on, or the whole blob.

        A piece may be shorter or longer than requested. A server without ranges sends the whole blob. Some object
        stores (rclone) send a piece with status 200, so the Content-Range decides. Raises _RangeUnusable for any other
        piece, SizeInvalid if the whole blob is announced with another length.
        """
        announced = response.headers.content_length
        asked = response.asked_for_range
        piece = _content_range(response, blob) if asked or response.status == 206 else None
        if piece and self._can_use(piece, blob) and announced in (None, piece.length):
            return piece
        if asked and (response.status == 206 or announced not in (None, blob.size)):
            raise _RangeUnusable(response.server)
        if announced not in (None, blob.size):
            raise _wrong_size(response, blob, announced or 0)
        return BlobRange(0, blob.size)

    def _can_use(self, piece: BlobRange, blob: Descriptor) -> bool:
        if (piece.start, piece.length) == (0, blob.size):
            return True
        is_long_enough = piece.end >= min(self.end, self.start + SMALLEST_PIECE)
        return piece.start == self.start and is_long_enough


class BlobTargets:
    """Where blobs were last redirected to: the `MAX_TARGETS` used most recently.

    A target was issued to the readers of one repository, so it is used for that repository only. A client has one
    credential per repository, and its targets never leave it.
    """

    def __init__(self, *, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._found: OrderedDict[tuple[str, str, Digest], tuple[str, float]] = OrderedDict()

    def get(self, reference: Reference, digest: Digest) -> str | None:
        key = _target_key(reference, digest)
        with self._lock:
            url, until = self._found.get(key, ("", 0.0))
            if not url:
                return None
            if self._clock() >= until:
                del self._found[key]
                return None
            self._found.move_to_end(key)
            return url

    def remember(self, reference: Reference, digest: Digest, url: str) -> None:
        key = _target_key(reference, digest)
        with self._lock:
            self._found[key] = url, self._clock() + TARGET_SECONDS
            self._found.move_to_end(key)
            if len(self._found) > MAX_TARGETS:
                self._found.popitem(last=False)

    def forget(self, reference: Reference, digest: Digest) -> None:
        with self._lock:
            self._found.pop(_target_key(reference, digest), None)


class BlobResponse:
    """The bytes of a blob as they arrive: at most ``length`` bytes from ``start`` on.

    They are the requested range, a shorter or longer piece that begins there, or the whole blob if the server has no
    ranges. The slot is given back after the last byte, on an error, and on close. *forget_target* is called on an
    error.
    """

    def __init__(
        self,
        response: Response,
        blob: Descriptor,
        held: BlobRange,
        slot: RequestSlot,
        *,
        forget_target: Callable[[], None] = lambda: None,
    ) -> None:
        self.start = held.start
        self.length = held.length
        self._response = response
        self._blob = blob
        self._left = held.length
        self._slot = slot
        self._forget_target = forget_target

    def readinto(self, buffer: memoryview) -> int:
        """Fill the buffer and return the count of bytes: 0 only after the last byte.

        Raises AnswerTruncated if the body ended early, SourceUnreachable if the connection broke or was interrupted,
        SizeInvalid if there are more bytes than described.
        """
        try:
            return self._read_into(buffer) if len(buffer) else 0
        except MirrorError as error:
            self._forget_target()
            self._slot.failed(error)
            raise

    def interrupt(self) -> None:
        """Wake a waiting `readinto`, from any thread. It fails."""
        self._response.interrupt()

    def close(self) -> None:
        """Return the connection to its pool if all bytes were read, else drop it."""
        self._response.close()
        self._slot.release(succeeded=True)

    def _read_into(self, buffer: memoryview) -> int:
        with translated(self._response.server, str(self._blob.digest)):
            count = self._response.read_into(buffer, "a blob")
        if count == 0 and self._left:
            raise self._too_short()
        if count > self._left:
            raise _wrong_size(self._response, self._blob, "more")
        self._left -= count
        if self._left == 0:
            self._slot.release(succeeded=True)
        return count

    def _too_short(self) -> MirrorError:
        """Return the error for an early end.

        It is the connection's, unless complete chunks came with a coding.
        """
        headers = self._response.headers
        if headers.content_codings and headers.elements("Transfer-Encoding"):
            return _wrong_size(self._response, self._blob, "fewer")
        return AnswerTruncated(self._response.server, str(self._blob.digest))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class BlobSource:
    """Opens ranges of blobs, in one attempt each. Safe to share between threads."""

    def __init__(
        self, requests: AuthorizedRequests, redirects: Redirects, limiter: ConcurrencyLimiter, sleep: Sleep
    ) -> None:
        self._requests = requests
        self._redirects = redirects
        self._limiter = limiter
        self._sleep = sleep
        self._targets = BlobTargets()

    def open_once(self, reference: Reference, blob: Descriptor, wanted: BlobRange) -> BlobResponse:
        """Open a range.

        The response holds a slot until its last byte is read or it is closed. Raises BlobUnknown, SizeInvalid,
        SourceFailed, and what every request raises.
        """
        slot = RequestSlot(self._limiter, reference.registry, "blobs", self._sleep)
        try:
            with shared_deadline():
                return self._open(reference, blob, wanted, slot)
        except BaseException as error:
            slot.failed(error)
            raise

    def head_once(self, reference: Reference, blob: Descriptor) -> Literal[True]:
        """Send one HEAD. Return True for a 200. Raises BlobUnknown for a 404, and what every request raises."""
        unknown = BlobUnknown(reference.registry, reference.repository, str(blob.digest))
        with RequestSlot(self._limiter, reference.registry, "blobs", self._sleep):
            response = self._requests.send("HEAD", reference, f"blobs/{blob.digest}", {}).response
            if response.status == 200:
                response.discard()
            else:  # a server without HEAD sends a body, which would be read as the next response
                response.close()
            self._requests.require_status(response, reference, unknown, what=_what(reference, blob))
        return True

    def _open(self, reference: Reference, blob: Descriptor, wanted: BlobRange, slot: RequestSlot) -> BlobResponse:
        """Open the range at the last target, else at the registry.

        Without a Range if the registry's is unusable.
        """
        headers = wanted.headers(blob)
        if target := self._targets.get(reference, blob.digest):
            response = self._redirects.get_target(target, headers, reference.registry)
            if response and not is_unusable(response, blob, wanted):
                return self._blob_response(response, reference, blob, wanted, slot)
            self._targets.forget(reference, blob.digest)
        final = self._requests.send("GET", reference, f"blobs/{blob.digest}", headers)
        unusable = final.response if is_unusable(final.response, blob, wanted) else None
        if unusable:
            final = self._requests.send("GET", reference, f"blobs/{blob.digest}", {})
        opened = self._blob_response(final.response, reference, blob, wanted, slot)
        if unusable:
            self._redirects.stop_ranges(unusable)
        if final.target:
            self._targets.remember(reference, blob.digest, final.target)
        return opened

    def _blob_response(
        self, response: Response, reference: Reference, blob: Descriptor, wanted: BlobRange, slot: RequestSlot
    ) -> BlobResponse:
        """Check the status and the range of a response.

        After any error, its target is not used again.
        """
        forget_target = partial(self._targets.forget, reference, blob.digest)
        try:
            unknown = BlobUnknown(reference.registry, reference.repository, str(blob.digest))
            self._requests.require_status(response, reference, unknown, FOUND, what=_what(reference, blob))
            held = wanted.found_in(response, blob)
        except BaseException:
            forget_target()
            response.close()
            raise
        return BlobResponse(response, blob, held, slot, forget_target=forget_target)


def _what(reference: Reference, blob: Descriptor) -> str:
    return f"the blob {blob.digest} of {reference.name}"


def is_unusable(response: Response, blob: Descriptor, wanted: BlobRange) -> bool:
    """Whether the response holds a piece that is unusable for the requested range.

    It is discarded then.
    """
    try:
        if response.status in FOUND:
            wanted.found_in(response, blob)
    except _RangeUnusable:
        response.discard()
        return True
    except SizeInvalid:
        return False  # `_blob_response` raises it, and forgets the target
    return False


def _wrong_size(response: Response, blob: Descriptor, actual: int | str) -> SizeInvalid:
    """Return the error for a whole blob of another size.

    Its hint is derived from the response's labels.
    """
    hint = None
    if response.headers.is_html:
        hint = f"It came as an HTML page. {HTML_HINT}"
    elif codings := response.headers.content_codings:
        hint = (
            f"It came labelled 'Content-Encoding: {', '.join(codings)[:80]}', though it was asked for as it is stored: "
            "a server or proxy on the way seems to compress it. Have that turned off."
        )
    return SizeInvalid(str(blob.digest), blob.size, actual, hint=hint)


def _content_range(response: Response, blob: Descriptor) -> BlobRange | None:
    """Return the piece that the Content-Range names.

    None if there is none, or if it cannot belong to this blob.
    """
    match = _CONTENT_RANGE.fullmatch(response.headers.only_element("Content-Range") or "")
    if not match or int(match[3] or blob.size) != blob.size:
        return None
    start, last = int(match[1]), int(match[2])
    return BlobRange(start, last + 1 - start) if start <= last < blob.size else None


def _target_key(reference: Reference, digest: Digest) -> tuple[str, str, Digest]:
    return reference.registry, reference.repository, digest
