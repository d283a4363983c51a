"""Documents that arrive compressed against our asking: decoded within their limit, and never trusted by their label."""

from __future__ import annotations

import contextlib
import gzip
import zlib
from collections.abc import Callable, Mapping
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirror.errors import AnswerTooLarge, SourceFailed
from mirror.http.documents import decoded, require_no_html
from mirror.oci.manifest import MAX_MANIFEST_SIZE
from mirror.oci.reference import Reference
from mirror.registry.client import RegistryClient
from tests.fakes import faults
from tests.fakes.registry import FakeRegistry, Reply, Tokens
from tests.images import TestImage

LIMIT = 100_000
JSON = b'{"schemaVersion": 2, "more": "' + b"x" * 5000 + b'"}'


def undone(body: bytes, label: str | None, limit: int = LIMIT) -> bytes:
    headers = {} if label is None else {"Content-Encoding": label}
    return decoded(body, headers, "registry.example", "the manifest", limit)


def raw_deflate(body: bytes) -> bytes:
    return zlib.compress(body, wbits=-15)


COMPRESSED: dict[str, tuple[str | None, bytes]] = {
    "gzip": ("gzip", gzip.compress(JSON, mtime=0)),
    "x-gzip": ("x-gzip", gzip.compress(JSON, mtime=0)),
    "in capitals": ("GZip", gzip.compress(JSON, mtime=0)),
    "gzip in two members": ("gzip", gzip.compress(JSON[:100], mtime=0) + gzip.compress(JSON[100:], mtime=0)),
    "gzip with zeros behind it": ("gzip", gzip.compress(JSON, mtime=0) + bytes(10)),
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
    assert undone(body, label) == JSON


@pytest.mark.parametrize("label", PLAIN)
def test_a_document_that_needs_no_decoding_is_left_as_it_is(label: str | None) -> None:
    assert undone(JSON, label) == JSON
    assert undone(b"", label) == b""


@pytest.mark.parametrize("compress", [gzip.compress, zlib.compress, raw_deflate])
def test_a_bomb_is_refused_before_it_is_there(compress: Callable[[bytes], bytes]) -> None:
    label = "gzip" if compress is gzip.compress else "deflate"
    fits = b"[" + b" " * (LIMIT - 2) + b"]"
    assert undone(compress(fits), label) == fits
    for size in (LIMIT + 1, 50 * LIMIT):
        with pytest.raises(AnswerTooLarge):
            undone(compress(bytes(size)), label)


def test_a_bomb_in_a_bomb_is_refused() -> None:
    with pytest.raises(AnswerTooLarge):
        undone(gzip.compress(gzip.compress(bytes(200 * LIMIT))), "gzip, gzip")


def test_many_members_do_not_add_up_to_more_than_the_limit() -> None:
    with pytest.raises(AnswerTooLarge):
        undone(gzip.compress(bytes(LIMIT // 2)) * 3, "gzip")


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
def test_what_cannot_be_decoded_is_the_registrys_failure(label: str | None, body: bytes) -> None:
    with pytest.raises(SourceFailed, match=r"decompressed|not asked for|5 times"):
        undone(body, label)


@given(
    body=st.binary(max_size=300) | st.just(gzip.compress(JSON, mtime=0)) | st.just(zlib.compress(JSON)),
    label=st.lists(st.sampled_from(["gzip", "deflate", "br", "identity", ""]), max_size=6).map(", ".join),
    cut=st.integers(0, 300),
)
def test_no_body_under_any_label_raises_what_is_not_ours(body: bytes, label: str, cut: int) -> None:
    for damaged in (body, body[:cut], body[cut:]):
        with contextlib.suppress(SourceFailed, AnswerTooLarge):
            assert len(undone(damaged, label)) <= LIMIT


PAGES: list[tuple[Mapping[str, str], bytes]] = [
    ({"Content-Type": "text/html; charset=utf-8"}, b"<p>Log in"),
    ({"Content-Type": "TEXT/HTML"}, b"\n  <!-- a portal --><p>Log in"),
    ({"Content-Type": "application/json"}, b"<!DOCTYPE html><html></html>"),
    ({}, b"\xef\xbb\xbf\r\n<!doctype HTML>"),
    ({}, b"<HTML><body>"),
]


@pytest.mark.parametrize(("headers", "body"), PAGES)
def test_a_page_for_people_is_told_from_a_document(headers: Mapping[str, str], body: bytes) -> None:
    with pytest.raises(SourceFailed, match="an HTML page instead of the manifest") as caught:
        require_no_html(body, headers, "registry.example", "the manifest")
    assert "login portal" in caught.value.hint


@pytest.mark.parametrize("body", [JSON, b"", b"[]"])
def test_a_document_that_is_labelled_as_a_page_is_none(body: bytes) -> None:
    require_no_html(body, {"Content-Type": "text/html"}, "registry.example", "the manifest")


# -- over the wire


@pytest.mark.parametrize("compress", [gzip.compress, zlib.compress])
@pytest.mark.parametrize("chunked", [False, True])
def test_a_manifest_that_arrives_compressed_is_read(
    client: RegistryClient,
    registry: FakeRegistry,
    reference: Reference,
    app: TestImage,
    compress: Callable[[bytes], bytes],
    *,
    chunked: bool,
) -> None:
    label = "gzip" if compress is gzip.compress else "deflate"
    encoded = faults.both(faults.body(compress(app.body)), faults.header("Content-Encoding", label))
    registry.script(faults.faulty(faults.both(encoded, faults.chunked()) if chunked else encoded))
    for asked in (reference, replace(reference, tag=None, digest=app.digest)):
        found = client.get_manifest(asked)
        assert (found.body, found.media_type, found.digest) == (app.body, app.media_type, app.digest)
        assert client.head_manifest(asked) == app.digest
    assert {request.headers["Accept-Encoding"] for request in registry.log()} == {"identity"}


def test_a_manifest_that_is_a_bomb_is_refused(
    client: RegistryClient, registry: FakeRegistry, reference: Reference
) -> None:
    bomb = faults.both(
        faults.body(gzip.compress(bytes(4 * MAX_MANIFEST_SIZE))), faults.header("Content-Encoding", "gzip")
    )
    registry.script(faults.faulty(bomb))
    with pytest.raises(AnswerTooLarge):
        client.get_manifest(reference)


def test_a_token_that_arrives_compressed_is_read(
    client: RegistryClient, registry: FakeRegistry, reference: Reference, app: TestImage
) -> None:
    registry.tokens = Tokens()

    def compressed(reply: Reply) -> Reply:
        assert isinstance(reply.body, bytes)
        return replace(
            reply, body=gzip.compress(reply.body, mtime=0), headers={**reply.headers, "Content-Encoding": "gzip"}
        )

    registry.script(faults.faulty(compressed, server="token"))
    assert client.get_manifest(reference).body == app.body


@pytest.mark.parametrize("server", ["api", "token"])
def test_a_portal_in_the_place_of_a_document_is_called_that(
    client: RegistryClient, registry: FakeRegistry, reference: Reference, server: str
) -> None:
    registry.tokens = Tokens()
    page = Reply(200, {"Content-Type": "text/html"}, b"<!DOCTYPE html><title>Welcome</title>")
    registry.script(faults.faulty(lambda _: page, server=server, method="GET"))
    with pytest.raises(SourceFailed, match="HTML page") as caught:
        client.get_manifest(reference)
    assert "login portal" in caught.value.hint
    assert len(registry.log(server, method="GET")) == 1


def test_a_manifest_that_is_labelled_as_a_page_is_read(
    client: RegistryClient, registry: FakeRegistry, reference: Reference, app: TestImage
) -> None:
    registry.script(faults.faulty(faults.header("Content-Type", "text/html")))
    assert client.get_manifest(reference).body == app.body
