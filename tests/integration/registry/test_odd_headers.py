"""Registries with repeated, unusable or too many headers, or with broken HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import pytest
from urllib3 import HTTPHeaderDict

from mirror.errors import AnswerTruncated, MirrorError, RateLimited, SourceFailed, SourceUnreachable
from mirror.http.address_guard import AddressGuard
from mirror.http.response import Headers
from mirror.http.transport import Transport
from mirror.oci import media_types
from mirror.oci.descriptor import Descriptor
from mirror.oci.digest import Digest
from mirror.oci.reference import Reference
from mirror.registry.client import RegistryClient
from mirror.registry.endpoints import Endpoints
from mirror.registry.manifests import content_digest
from mirror.registry.throttle import Throttle
from tests.integration.registry.conftest import LOGIN, LOOPBACK, MakeClient, get_manifest
from tests.support.fakes import faults
from tests.support.fakes.registry import FakeRegistry
from tests.support.fakes.sockets import RawServer
from tests.support.fakes.throttle import ClosedBreaker, UnlimitedQuota, UnlimitedSlots
from tests.support.images import TestImage

CONTENT = b"0123456789"
BLOB = Descriptor("application/octet-stream", Digest.of(CONTENT), len(CONTENT))
OTHER = Digest.of(b"something else")
OK = b"HTTP/1.1 200 OK\r\n"


def headers(*lines: tuple[str, str]) -> Headers:
    return Headers(HTTPHeaderDict(lines))


DIGEST = Digest.of(CONTENT)
UNUSABLE = [
    "",
    " ",
    "sha256:abc",
    "sha256:../../etc/passwd",
    "md5:" + "0" * 32,
    "sha256:" + "G" * 64,
    str(OTHER).upper(),
    "sha256: " + OTHER.hex,
    OTHER.hex,
    f'"{OTHER}"',
    f"{OTHER}, {DIGEST}",
]


@pytest.mark.parametrize("text", UNUSABLE)
def test_an_unusable_digest_header_counts_as_absent(text: str) -> None:
    assert content_digest(headers(("Docker-Content-Digest", text))) is None


def test_a_repeated_digest_header_counts_once_and_different_ones_count_as_absent() -> None:
    once, twice = ("Docker-Content-Digest", str(DIGEST)), ("Docker-Content-Digest", f"{DIGEST} , {DIGEST}")
    assert (
        content_digest(headers(once)) == content_digest(headers(once, once)) == content_digest(headers(twice)) == DIGEST
    )
    assert content_digest(headers(once, ("Docker-Content-Digest", str(OTHER)))) is None


@pytest.mark.parametrize("text", UNUSABLE)
def test_a_manifest_is_read_whatever_its_digest_header_says(
    client: RegistryClient, registry: FakeRegistry, reference: Reference, app: TestImage, text: str
) -> None:
    registry.script(faults.faulty(faults.header("Docker-Content-Digest", text)))
    assert client.head_manifest(reference) is None
    assert get_manifest(client, reference).digest == app.digest


def test_repeated_headers_do_not_disturb_a_manifest(
    client: RegistryClient, registry: FakeRegistry, reference: Reference, app: TestImage
) -> None:
    twice = [
        faults.again("Content-Type", "application/json"),
        faults.again("Docker-Content-Digest", str(app.digest)),
        faults.again("Content-Length", str(len(app.body))),
    ]
    registry.script(faults.faulty(faults.both(*twice)))
    assert client.head_manifest(reference) == app.digest
    found = get_manifest(client, reference)
    assert (found.body, found.media_type, found.digest) == (app.body, media_types.OCI_MANIFEST, app.digest)
    assert registry.connections["api"] == 1


def test_of_two_locations_the_first_is_followed(
    client: RegistryClient, registry: FakeRegistry, reference: Reference, app: TestImage
) -> None:
    registry.put(app, "moved/app", "1")
    away = faults.status(307, Location="/v2/moved/app/manifests/1")
    registry.script(faults.faulty(faults.both(away, faults.again("Location", "/nowhere")), path="team/app"))
    assert get_manifest(client, reference).body == app.body


def test_of_two_retry_after_headers_the_first_counts(
    client: RegistryClient, registry: FakeRegistry, reference: Reference
) -> None:
    limited = faults.both(faults.status(429, Retry_After="77"), faults.again("Retry-After", "5"))
    registry.script(faults.faulty(limited))
    with pytest.raises(RateLimited) as caught:
        get_manifest(client, reference)
    assert caught.value.retry_after == 77


def test_a_challenge_of_several_lines_is_read(
    client_of: MakeClient, registry: FakeRegistry, reference: Reference, app: TestImage, config: object
) -> None:
    registry.basic = LOGIN
    unknown = faults.header("WWW-Authenticate", 'Negotiate realm="x"')
    more = faults.both(unknown, faults.again("WWW-Authenticate", 'Basic realm="y"'))
    registry.script(lambda _, reply: more(reply) if reply.status == 401 else None)
    assert get_manifest(client_of(registry, docker_config=config), reference).body == app.body


# -- what comes before an answer


@pytest.mark.parametrize(
    "heads",
    [
        [b"100 Continue"],
        [b"102 Processing"],
        [b"103 Early Hints\r\nLink: </x>; rel=preload\r\nLink: </y>"],
        [b"104 Upload Resumption Supported", b"199 ?"],
        [b"100 Continue", b"102 Processing", b"103 Early Hints", b"100 Continue"],
        [b"102 Processing"] * 99,
    ],
    ids=["100", "102", "103 with headers", "unknown ones", "all of them", "many"],
)
def test_interim_responses_are_skipped(
    client: RegistryClient, registry: FakeRegistry, reference: Reference, app: TestImage, heads: list[bytes]
) -> None:
    registry.script(faults.faulty(faults.interim(*heads)))
    assert client.head_manifest(reference) == app.digest
    assert get_manifest(client, reference).body == app.body
    [(digest, content), *_] = app.blobs.items()
    with client.open_blob(reference, Descriptor("application/octet-stream", digest, len(content)), offset=1) as stream:
        buffer = memoryview(bytearray(len(content)))
        assert buffer[: stream.readinto(buffer)] == content[1:]
    assert registry.connections["api"] == 1


# -- below HTTP


class RecordingBreaker(ClosedBreaker):
    """Records the failures that count for the breaker."""

    def __init__(self) -> None:
        self.failures: list[MirrorError] = []

    def failed(self, registry: str, error: MirrorError) -> MirrorError:
        self.failures.append(error)
        return error


@pytest.fixture
def server() -> Iterator[RawServer]:
    with RawServer() as running:
        yield running


@pytest.fixture
def open_server() -> Iterator[RawServer]:
    """A server that leaves every connection open, as HTTP/1.1 servers do."""
    with RawServer(keeps_open=True) as running:
        yield running


def raw_client(client_of: MakeClient, server: RawServer) -> tuple[RegistryClient, Reference]:
    client = client_of(insecure_registries=frozenset({server.host}))
    return client, Reference.parse(f"{server.host}/team/app:1")


def read_blob(client: RegistryClient, reference: Reference) -> bytes:
    with client.open_blob(reference, BLOB) as stream:
        buffer, found = memoryview(bytearray(100)), b""
        while count := stream.readinto(buffer):
            found += buffer[:count]
        return found


REASONS = {
    "more than 100 header lines": (OK + b"X: a\r\n" * 101 + b"\r\n", "more than 100 header lines"),
    "500 different headers": (
        OK + b"".join(b"X-%d: a\r\n" % n for n in range(500)) + b"\r\n",
        "more than 100 header lines",
    ),
    "a header line of 70 kB": (OK + b"X: " + b"a" * 70_000 + b"\r\n\r\n", "a header line longer than 64 KiB"),
    "a status line of 70 kB": (b"HTTP/1.1 200 " + b"a" * 70_000 + b"\r\n\r\n", "a status line longer than 64 KiB"),
    "a line of 70 kB before": (
        b"HTTP/1.1 103 ?\r\nX: " + b"a" * 70_000 + b"\r\n\r\n",
        "a header line longer than 64 KiB",
    ),
    "interim answers without end": (b"HTTP/1.1 100 Continue\r\n\r\n" * 500, "more than 100 interim answers"),
    "large interim answers": (b"HTTP/1.1 103 ?\r\nX: %b\r\n\r\n" % (b"a" * 60_000) * 50, "interim answers .* bytes"),
    "a protocol switch": (b"HTTP/1.1 101 Switching\r\nUpgrade: h2c\r\n\r\n", "switched protocols"),
    "another version": (b"HTTP/9.9 200 OK\r\nContent-Length: 0\r\n\r\n", "another version of HTTP"),
    "HTTP/2": (b"\x00\x00\x12\x04\x00\x00\x00\x00\x00\x00\x03\x00\x00\x00d\n", "not HTTP"),
    "its preface": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "not HTTP"),
    "SSH": (b"SSH-2.0-OpenSSH_9.6\r\n", "not HTTP"),
    "HTTP/0.9": (b"<html>hello</html>\n", "not HTTP"),
    "no status": (b"HTTP/1.1\r\n\r\n", "not HTTP"),
    "a word for a status": (b"HTTP/1.1 abc OK\r\n\r\n", "not HTTP"),
    "two lengths": (
        OK + b"Content-Length: 10\r\nContent-Length: 9\r\n\r\n" + CONTENT,
        "Content-Length headers that differ",
    ),
    "two lengths in a line": (OK + b"Content-Length: 10, 9\r\n\r\n" + CONTENT, "Content-Length headers that differ"),
}


@pytest.mark.parametrize(("answer", "reason"), REASONS.values(), ids=REASONS.keys())
def test_a_violation_of_http_is_named_and_never_called_unreachable(
    server: RawServer, client_of: MakeClient, answer: bytes, reason: str
) -> None:
    server.answer = answer
    breaker = RecordingBreaker()
    throttle = Throttle(breaker, UnlimitedSlots(), UnlimitedQuota())
    endpoints = Endpoints(insecure=frozenset({server.host}))
    client = RegistryClient(
        Transport(AddressGuard(LOOPBACK)), endpoints, lambda *_: None, throttle=throttle, sleep=lambda _: None
    )
    reference = Reference.parse(f"{server.host}/team/app:1")
    for ask in (partial(get_manifest, client), lambda asked: read_blob(client, asked)):
        with pytest.raises(SourceFailed, match=reason) as caught:
            ask(reference)
        assert "reached" not in caught.value.message
    assert client.head_manifest(reference) is None
    client.close()
    assert breaker.failures == []


@pytest.mark.parametrize("coding", [b"gzip, chunked", b"gzip", b"chunked, br"])
def test_a_transfer_that_is_compressed_is_refused(server: RawServer, client_of: MakeClient, coding: bytes) -> None:
    server.answer = OK + b"Transfer-Encoding: " + coding + b"\r\n\r\n0\r\n\r\n"
    client, reference = raw_client(client_of, server)
    for ask in (partial(get_manifest, client), lambda asked: read_blob(client, asked)):
        with pytest.raises(SourceFailed, match="Transfer-Encoding"):
            ask(reference)


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 20", b"HTT", OK + b"Content-Length: 10\r\n\r\n12345"])
def test_a_cut_connection_is_reported_as_such(server: RawServer, client_of: MakeClient, answer: bytes) -> None:
    server.answer = answer
    client, reference = raw_client(client_of, server)
    with pytest.raises((SourceUnreachable, AnswerTruncated)):
        get_manifest(client, reference)


@pytest.mark.parametrize(
    "head",
    [
        b"Content-Length: 10\r\nContent-Length: 10",
        b"Content-Length: 10, 10",
        b"content-length:10 ,10\r\nCONTENT-LENGTH: 10",
        b"Transfer-Encoding: Identity\r\nContent-Length: 10",
        b"X: a\r\n" * 90 + b"Content-Length: 10",
    ],
)
def test_a_length_that_is_repeated_ends_the_body(open_server: RawServer, client_of: MakeClient, head: bytes) -> None:
    """The connection stays open. Without the length, a client would wait for its end."""
    open_server.answer = OK + head + b"\r\n\r\n" + CONTENT
    client, reference = raw_client(client_of, open_server)
    for _ in range(2):
        assert read_blob(client, reference) == CONTENT
        assert get_manifest(client, reference).body == CONTENT


@pytest.mark.parametrize(
    "head", [b"chunked", b"Chunked", b"identity, chunked", b"chunked\r\nTransfer-Encoding: chunked"]
)
def test_chunked_bodies_are_recognised_in_all_spellings(
    open_server: RawServer, client_of: MakeClient, head: bytes
) -> None:
    open_server.answer = OK + b"Transfer-Encoding: " + head + b"\r\n\r\n4\r\n0123\r\n6\r\n456789\r\n0\r\n\r\n"
    client, reference = raw_client(client_of, open_server)
    assert read_blob(client, reference) == CONTENT
    assert get_manifest(client, reference).body == CONTENT
