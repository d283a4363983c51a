"""A response: its headers and its body, read within limits.

Every request asks for ``Accept-Encoding: identity``. Some servers and proxies compress the body all the same. Its first
bytes decide how it is decoded, because labels are often wrong. The decoded size is bounded while it is decoded.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final, Self

from urllib3 import BaseHTTPResponse, HTTPHeaderDict
from urllib3.exceptions import ReadTimeoutError

from mirror.errors import AnswerTooLarge, MirrorError, SourceFailed
from mirror.http import deadlines
from mirror.http.deadlines import Deadline, OnCancel, PendingRequest
from mirror.http.failures import stalled, translated, waiting_for_server
from mirror.http.guarded_connections import GuardedConnection

_LISTS: Final = frozenset({"www-authenticate", "link", "content-encoding", "transfer-encoding"})
"""Headers that may have several lines (RFC 9110, 5.3). Of any other, only one line counts."""
_BLANKS: Final = " \t"
_LENGTH_DIGITS: Final = 19
_PIECE: Final = 64 * 1024

_GZIP: Final = frozenset({"gzip", "x-gzip"})
_DEFLATE: Final = frozenset({"deflate", "x-deflate", "zlib"})
_MAX_CODINGS: Final = 4
_MAX_MEMBERS: Final = 100
"""Members of one gzip body. Each costs a copy of the rest of the body."""
_GZIP_MAGIC: Final = b"\x1f\x8b"
_GZIP_BITS: Final = 16 + zlib.MAX_WBITS
_RAW_BITS: Final = -zlib.MAX_WBITS
_HTML_TYPES: Final = frozenset({"text/html", "application/xhtml+xml"})
_HTML_STARTS: Final = (b"<!doctype html", b"<html", b"<head", b"<body", b"<script", b"<meta")
HTML_HINT: Final = (
    "This is probably a login portal, a proxy's page or a wrong address. Check the registry's name, "
    "MIRROR_REGISTRY_ENDPOINTS, and what the network between the workers and the registry puts in between."
)


class WebPage(SourceFailed):
    """The registry, or something in front of it, sent a web page instead of a document."""


class Headers(Mapping[str, str]):
    """Headers by name, in upper or lower case.

    The value of a list header is all its lines, joined. The value of any other is its first line that is not empty.
    """

    __slots__ = ("_fields",)

    def __init__(self, fields: HTTPHeaderDict) -> None:
        self._fields = fields

    def __getitem__(self, name: str) -> str:
        joined = self._fields[name]
        if "," not in joined or name.lower() in _LISTS:
            return joined.strip(_BLANKS)
        return next(filter(None, self.lines(name)), "")

    def get(self, name: str, default: Any = None) -> Any:
        """Return the header's value, or *default*.

        An absent header, the usual case, costs no exception.
        """
        return self[name] if name in self._fields else default

    def __iter__(self) -> Iterator[str]:
        return iter(self._fields)

    def __len__(self) -> int:
        return len(self._fields)

    def lines(self, name: str) -> list[str]:
        """Return every line of the header, without blanks around its value."""
        return [line.strip(_BLANKS) for line in self._fields.getlist(name)]

    def elements(self, name: str) -> list[str]:
        """Return what commas separate in all lines of a list header, without empty parts."""
        return [text for line in self.lines(name) for element in line.split(",") if (text := element.strip(_BLANKS))]

    def only_element(self, name: str) -> str | None:
        """Return the header's one value, which may be repeated.

        None if values differ, or if there is none.
        """
        if name not in self._fields:
            return None
        distinct = set(self.elements(name))
        return distinct.pop() if len(distinct) == 1 else None

    @property
    def content_length(self) -> int | None:
        """The Content-Length. None if there is none, or if it is no number."""
        text = self.only_element("Content-Length") or ""
        return int(text) if text.isascii() and text.isdecimal() and len(text) <= _LENGTH_DIGITS else None

    @property
    def media_type(self) -> str | None:
        """The Content-Type in lower case, without parameters. None if there is none."""
        return self.get("Content-Type", "").partition(";")[0].partition(",")[0].strip().lower() or None

    @property
    def content_codings(self) -> list[str]:
        """The codings of Content-Encoding in order, in lower case, without ``identity``."""
        return [name for element in self.elements("Content-Encoding") if (name := element.lower()) != "identity"]

    @property
    def is_html(self) -> bool:
        """Whether the body is labelled as a web page."""
        return self.media_type in _HTML_TYPES


@dataclass(frozen=True, slots=True)
class Response:
    """A response whose body has not been read yet.

    Close it. Closing before the body's end drops the connection.
    """

    server: str
    status: int
    headers: Headers
    raw: BaseHTTPResponse = field(repr=False)
    request: PendingRequest = field(repr=False)
    on_cancel: OnCancel = field(repr=False)
    url: str = field(repr=False)
    asked_for_range: bool = False

    def read(self, limit: int, what: str) -> bytes:
        """Return the whole body without its Content-Encoding, at most *limit* bytes.

        *what* names it in errors. It is read within the deadline of the request. Raises AnswerTooLarge before more is
        read or decoded. Raises AnswerTruncated, SourceTooSlow or SourceUnreachable if the body was cut or too slow.
        Raises SourceFailed if it cannot be decoded, and WebPage if the status is 200 and the body is a web page.
        """
        if (self.headers.content_length or 0) > limit:
            raise AnswerTooLarge(self.server, what, limit)
        pieces: list[bytes] = []
        total = 0
        with waiting_for_server(self.server, what, self.request, self.on_cancel, connection=self._connection):
            while piece := self.raw.read(_PIECE, decode_content=False):
                pieces.append(piece)
                total += len(piece)
                if total > limit:
                    raise AnswerTooLarge(self.server, what, limit)
        body = decode_body(b"".join(pieces), self.headers, self.server, what, limit)
        if self.status == 200:
            require_no_html(body, self.headers, self.server, what)
        return body

    def read_quickly(self, limit: int, what: str) -> bytes:
        """Do as `read` within half a second, for a body that is useful but not needed.

        Raises SourceTooSlow if the body does not arrive together with its head.
        """
        self._allow_drain_seconds()
        return self.read(limit, what)

    def read_into(self, buffer: memoryview, what: str) -> int:
        """Read the next body bytes into *buffer*. Return their count, 0 at the end.

        For large bodies: each call has a deadline of a minute, and the whole body has none. Pass a buffer of about
        1 MiB. *what* names the body in errors. Raises SourceTooSlow, and the errors of urllib3 and http.client, which
        `failures.translated` translates.

        Measured 0.15 s of CPU per GB, against 0.21 s for urllib3's own `read` and a copy.
        """
        connection = self._connection
        if connection is None:
            return 0  # it went back to its pool with the last byte
        incoming, deadline = connection.incoming, Deadline(deadlines.STALL_SECONDS)
        incoming.into, incoming.reader.deadline = buffer, deadline
        try:
            return len(self.raw.read(len(buffer), decode_content=False))
        except ReadTimeoutError:
            raise stalled(self.server, what, deadline) from None
        finally:
            incoming.into = None

    def interrupt(self) -> None:
        """Wake the thread that reads the body, from any thread. Its read fails.

        Does nothing once the body was read, because the connection may serve another request by then.
        """
        if (connection := self._connection) is not None:
            connection.interrupt()

    def close(self) -> None:
        """Return the connection to its pool if the whole body was read, else drop it."""
        self.raw.close()
        self.raw.release_conn()

    def discard(self) -> None:
        """Close a response whose body is not needed.

        A short body that arrives at once is read, so that its connection can be used again.
        """
        with self, suppress(MirrorError), translated(self.server, "an answer"):
            if (self.headers.content_length or 0) <= _PIECE:
                self._allow_drain_seconds()
                self.raw.read(_PIECE, decode_content=False)

    def _allow_drain_seconds(self) -> None:
        if (connection := self._connection) is not None:
            connection.incoming.reader.deadline = Deadline(deadlines.DRAIN_SECONDS)

    @property
    def _connection(self) -> GuardedConnection | None:
        """The connection. None once the body was read and it is back in its pool."""
        connection: GuardedConnection | None = self.raw.connection  # type: ignore[assignment]  # all are guarded here
        return connection

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def decode_body(body: bytes, headers: Headers, server: str, what: str, limit: int) -> bytes:
    """Undo the Content-Encoding of a document. Returns at most *limit* bytes.

    Raises AnswerTooLarge if more than *limit* bytes come out, SourceFailed if the body cannot be decoded.
    """
    labels = headers.content_codings if body else []
    known = [label for label in labels if label in _GZIP | _DEFLATE]
    if len(known) > _MAX_CODINGS:
        raise SourceFailed(server, f"it encoded its answer for {what} {len(known)} times")
    if not known and body.startswith(_GZIP_MAGIC):
        known = ["gzip"]  # no JSON begins like this: the body is compressed, and its label was lost
    try:
        for label in reversed(known):
            body = _undo_coding(body, label, limit)
    except OverflowError:
        raise AnswerTooLarge(server, what, limit) from None
    except (zlib.error, EOFError):
        raise SourceFailed(server, f"its answer for {what} is damaged: it cannot be decompressed") from None
    unknown = [label for label in labels if label not in known]
    if unknown and not _looks_like_json(body):
        raise SourceFailed(server, f"it encoded its answer for {what} as {unknown[0][:40]!r}, which was not asked for")
    return body


def require_no_html(body: bytes, headers: Headers, server: str, what: str) -> None:
    """Raise WebPage for a web page."""
    start = body[:1024].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if (headers.is_html and start.startswith(b"<")) or start.startswith(_HTML_STARTS):
        raise WebPage(server, f"it answered with an HTML page instead of {what}", hint=HTML_HINT)


def _undo_coding(body: bytes, label: str, limit: int) -> bytes:
    """Undo one coding, if it was applied.

    A body that is JSON, or no gzip, was labelled wrongly.
    """
    if label in _GZIP:
        return _inflate(body, _GZIP_BITS, limit) if body.startswith(_GZIP_MAGIC) else _require_document(body)
    try:
        return _inflate(body, zlib.MAX_WBITS if _has_zlib_header(body) else _RAW_BITS, limit)
    except (zlib.error, EOFError):
        if _looks_like_json(body):
            return body
        raise


def _require_document(body: bytes) -> bytes:
    if not _looks_like_json(body) and not body.lstrip().startswith(b"<"):
        raise zlib.error("neither compressed nor a document")
    return body


def _inflate(body: bytes, bits: int, limit: int) -> bytes:
    """Decompress all members of a body.

    Raises zlib.error, EOFError if the body ends early, OverflowError if more than *limit* bytes come out.
    """
    found, left = b"", body
    for _ in range(_MAX_MEMBERS):
        decoder = zlib.decompressobj(bits)
        found += decoder.decompress(left, limit + 1 - len(found))
        if len(found) > limit:
            raise OverflowError
        if not decoder.eof:
            raise EOFError
        left = decoder.unused_data
        if bits != _GZIP_BITS or not left.startswith(_GZIP_MAGIC):
            return found
    raise zlib.error("too many members")


def _has_zlib_header(body: bytes) -> bool:
    """Whether the body begins as RFC 1950 demands.

    Some servers send raw deflate under the same label.
    """
    return len(body) >= 2 and body[0] & 0x0F == 8 and (body[0] << 8 | body[1]) % 31 == 0


def _looks_like_json(body: bytes) -> bool:
    return body[:1024].lstrip().startswith((b"{", b"["))
