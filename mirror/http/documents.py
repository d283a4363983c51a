"""JSON documents as registries send them: manifests, tokens and lists, compressed or not.

Every request asks for ``Accept-Encoding: identity``. Some servers and proxies compress all the same. The bytes decide
what was done to them, since labels are often wrong. What comes out is bounded while it is decoded.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Final

from mirror.errors import AnswerTooLarge, SourceFailed
from mirror.http.headers import codings, media_type

_GZIP: Final = frozenset({"gzip", "x-gzip"})
_DEFLATE: Final = frozenset({"deflate", "x-deflate", "zlib"})
_MOST_CODINGS: Final = 4
_MOST_MEMBERS: Final = 100
"""Members of one gzip body. Each costs a copy of what follows it."""
_GZIP_MAGIC: Final = b"\x1f\x8b"
_GZIP_BITS: Final = 16 + zlib.MAX_WBITS
_RAW_BITS: Final = -zlib.MAX_WBITS
_HTML_TYPES: Final = frozenset({"text/html", "application/xhtml+xml"})
_HTML_STARTS: Final = (b"<!doctype html", b"<html", b"<head", b"<body", b"<script", b"<meta")
PORTAL_HINT: Final = (
    "This is probably a login portal, a proxy's page or a wrong address. Check the registry's name, "
    "MIRROR_REGISTRY_ENDPOINTS, and what the network between the workers and the registry puts in between."
)


def decoded(body: bytes, headers: Mapping[str, str], registry: str, what: str, limit: int) -> bytes:
    """The body as it was before any Content-Encoding, at most *limit* bytes.

    Raises AnswerTooLarge where more than *limit* bytes come out, SourceFailed where it cannot be decoded.
    """
    labels = codings(headers) if body else []
    known = [label for label in labels if label in _GZIP | _DEFLATE]
    if len(known) > _MOST_CODINGS:
        raise SourceFailed(registry, f"it encoded its answer for {what} {len(known)} times")
    if not known and body.startswith(_GZIP_MAGIC):
        known = ["gzip"]  # no JSON begins so: it was compressed, and the label was lost
    try:
        for label in reversed(known):
            body = _once_decoded(body, label, limit)
    except OverflowError:
        raise AnswerTooLarge(registry, what, limit) from None
    except (zlib.error, EOFError):
        raise SourceFailed(registry, f"its answer for {what} is damaged: it cannot be decompressed") from None
    unknown = [label for label in labels if label not in known]
    if unknown and not _looks_like_json(body):
        raise SourceFailed(
            registry, f"it encoded its answer for {what} as {unknown[0][:40]!r}, which was not asked for"
        )
    return body


def require_no_html(body: bytes, headers: Mapping[str, str], registry: str, what: str) -> None:
    """Raise SourceFailed for a page that is meant for people."""
    start = body[:1024].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    labelled = media_type(headers) in _HTML_TYPES and start.startswith(b"<")
    if labelled or start.startswith(_HTML_STARTS):
        raise SourceFailed(registry, f"it answered with an HTML page instead of {what}", hint=PORTAL_HINT)


def is_html(headers: Mapping[str, str]) -> bool:
    """Whether the answer is labelled as a page for people."""
    return media_type(headers) in _HTML_TYPES


def _once_decoded(body: bytes, label: str, limit: int) -> bytes:
    """Undo one coding, if it was applied: what is JSON, or is no gzip, was labelled wrongly."""
    if label in _GZIP:
        return _inflated(body, _GZIP_BITS, limit) if body.startswith(_GZIP_MAGIC) else _mislabelled(body)
    try:
        return _inflated(body, zlib.MAX_WBITS if _has_zlib_header(body) else _RAW_BITS, limit)
    except (zlib.error, EOFError):
        if _looks_like_json(body):
            return body
        raise


def _mislabelled(body: bytes) -> bytes:
    if not _looks_like_json(body) and not body.lstrip().startswith(b"<"):
        raise zlib.error("neither compressed nor a document")
    return body


def _inflated(body: bytes, bits: int, limit: int) -> bytes:
    """All members of a compressed body. Raises zlib.error, EOFError if it ends early, OverflowError if it is a bomb."""
    found, left = b"", body
    for _ in range(_MOST_MEMBERS):
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
    """Whether it begins as RFC 1950 wants it. Some servers send raw deflate under the same name."""
    return len(body) >= 2 and body[0] & 0x0F == 8 and (body[0] << 8 | body[1]) % 31 == 0


def _looks_like_json(body: bytes) -> bool:
    return body[:1024].lstrip().startswith((b"{", b"["))
