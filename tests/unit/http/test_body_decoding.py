"""Compressed bodies: decoded within a limit, whatever their label says."""

from __future__ import annotations

import contextlib
import gzip
import zlib
from collections.abc import Callable, Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st
from urllib3 import HTTPHeaderDict

from mirror.errors import AnswerTooLarge, SourceFailed
from mirror.http.response import Headers, decode_body, require_no_html

LIMIT = 100_000
JSON = b'{"schemaVersion": 2, "more": "' + b"x" * 5000 + b'"}'


def decoded(body: bytes, label: str | None, limit: int = LIMIT) -> bytes:
    headers = Headers(HTTPHeaderDict({} if label is None else {"Content-Encoding": label}))
    return decode_body(body, headers, "registry.example", "the manifest", limit)


def raw_deflate(body: bytes) -> bytes:
    return zlib.compress(body, wbits=-15)


COMPRESSED: dict[str, tuple[str | None, bytes]] = {
    "gzip": ("gzip", gzip.compress(JSON, mtime=0)),
    "x-gzip": ("x-gzip", gzip.compress(JSON, mtime=0)),
    "in capitals": ("GZip", gzip.compress(JSON, mtime=0)),
    "gzip in two members": ("gzip", gzip.compress(JSON[:100], mtime=0) + gzip.compress(JSON[100:], mtime=0)),
    "gzip with zeros after it": ("gzip", gzip.compress(JSON, mtime=0) + bytes(10)),
    "deflate": ("deflate", zlib.compress(JSON)),
    "raw deflate": ("deflate", raw_deflate(JSON)),
    "gzip twice": ("gzip, gzip", gzip.compress(gzip.compress(JSON, mtime=0), mtime=0)),
    "deflate, then gzip": ("deflate, gzip", gzip.compress(zlib.compress(JSON), mtime=0)),
    "gzip among harmless words": ("identity, gzip, aws-chunked", gzip.compress(JSON, mtime=0)),
    "gzip without a label": (None, gzip.compress(JSON, mtime=0)),
}
PLAIN = [None, "", "identity", "identity, identity", "gzip", "x-gzip", "deflate", "aws-chunked", "binary", "none", "br"]


@pytest.mark.parametrize(("label", "body"), COMPRESSED.values(), ids=COMPRESSED.keys())
def test_a_compressed_document_is_decoded(label: str | None, body: bytes) -> None:
    assert decoded(body, label) == JSON


@pytest.mark.parametrize("label", PLAIN)
def test_a_document_without_coding_is_unchanged(label: str | None) -> None:
    assert decoded(JSON, label) == JSON
    assert decoded(b"", label) == b""


@pytest.mark.parametrize("compress", [gzip.compress, zlib.compress, raw_deflate])
def test_a_decompression_bomb_is_refused_before_it_is_decompressed(compress: Callable[[bytes], bytes]) -> None:
    label = "gzip" if compress is gzip.compress else "deflate"
    fits = b"[" + b" " * (LIMIT - 2) + b"]"
    assert decoded(compress(fits), label) == fits
    for size in (LIMIT + 1, 50 * LIMIT):
        with pytest.raises(AnswerTooLarge):
            decoded(compress(bytes(size)), label)


def test_a_nested_decompression_bomb_is_refused() -> None:
    with pytest.raises(AnswerTooLarge):
        decoded(gzip.compress(gzip.compress(bytes(200 * LIMIT))), "gzip, gzip")


def test_many_members_do_not_add_up_to_more_than_the_limit() -> None:
    with pytest.raises(AnswerTooLarge):
        decoded(gzip.compress(bytes(LIMIT // 2)) * 3, "gzip")


@pytest.mark.parametrize(
    ("label", "body"),
    [
        ("gzip", gzip.compress(JSON, mtime=0)[:-9]),
        ("gzip", gzip.compress(JSON, mtime=0)[:-4] + b"crc?"),
        ("gzip", b"\x1f\x8b" + b"no gzip at all"),
        ("gzip", b"neither one nor the other"),
        ("gzip", gzip.compress(b"", mtime=0) * 101),
        ("deflate", zlib.compress(JSON)[:-20]),
        ("deflate", b"\x78\x9c no deflate"),
        ("br", b"\x0b\x02\x80abc\x03"),
        ("gzip, gzip, gzip, gzip, gzip", JSON),
        (None, b"\x1f\x8b\x08"),
    ],
)
def test_a_body_that_cannot_be_decoded_is_a_registry_failure(label: str | None, body: bytes) -> None:
    with pytest.raises(SourceFailed, match=r"decompressed|not asked for|5 times"):
        decoded(body, label)


@given(
    body=st.binary(max_size=300) | st.just(gzip.compress(JSON, mtime=0)) | st.just(zlib.compress(JSON)),
    label=st.lists(st.sampled_from(["gzip", "deflate", "br", "identity", ""]), max_size=6).map(", ".join),
    cut=st.integers(0, 300),
)
def test_any_body_under_any_label_raises_only_mirror_errors(body: bytes, label: str, cut: int) -> None:
    for damaged in (body, body[:cut], body[cut:]):
        with contextlib.suppress(SourceFailed, AnswerTooLarge):
            assert len(decoded(damaged, label)) <= LIMIT


PAGES: list[tuple[Mapping[str, str], bytes]] = [
    ({"Content-Type": "text/html; charset=utf-8"}, b"<p>Log in"),
    ({"Content-Type": "TEXT/HTML"}, b"\n  <!-- a portal --><p>Log in"),
    ({"Content-Type": "application/json"}, b"<!DOCTYPE html><html></html>"),
    ({}, b"\xef\xbb\xbf\r\n<!doctype HTML>"),
    ({}, b"<HTML><body>"),
]


@pytest.mark.parametrize(("headers", "body"), PAGES)
def test_a_web_page_is_refused_as_a_document(headers: Mapping[str, str], body: bytes) -> None:
    with pytest.raises(SourceFailed, match="an HTML page instead of the manifest") as caught:
        require_no_html(body, Headers(HTTPHeaderDict(headers)), "registry.example", "the manifest")
    assert "login portal" in caught.value.hint


@pytest.mark.parametrize("body", [JSON, b"", b"[]"])
def test_a_document_that_is_labelled_as_html_is_accepted(body: bytes) -> None:
    require_no_html(body, Headers(HTTPHeaderDict({"Content-Type": "text/html"})), "registry.example", "the manifest")
