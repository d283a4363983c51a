"""Servers that send a byte now and then: a timeout between reads never ends them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest

from mirror.errors import (
    BlobUnknown,
    Denied,
    ManifestUnknown,
    MirrorError,
    RateLimited,
    SourceFailed,
    SourceTooSlow,
    Unauthorized,
)
from mirror.oci.descriptor import Descriptor
from mirror.oci.digest import Digest
from mirror.oci.reference import Reference
from tests.e2e.processes import eventually
from tests.integration.registry.conftest import MakeClient, get_manifest
from tests.support.fakes import faults
from tests.support.fakes.registry import FakeRegistry, Reply, Request, Tokens
from tests.support.fakes.sockets import DrippingServer

OK = b"HTTP/1.1 200 OK\r\n"
BLOB = Descriptor("application/octet-stream", Digest.of(b"content"), 7)

ENDLESS = {
    "a status line": (b"", b"a"),
    "a header": (OK + b"X: ", b"a"),
    "headers": (OK, b"X: a\r\n"),
    "a body": (OK + b"Content-Length: 100000\r\n\r\n", b"a"),
    "a body without a length": (OK + b"\r\n", b"a"),
    "interim answers": (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "headers of an interim answer": (b"HTTP/1.1 103 Early Hints\r\n", b"Link: a\r\n"),
    "a chunk's size": (OK + b"Transfer-Encoding: chunked\r\n\r\n", b"0"),
    "a chunk's extension": (OK + b"Transfer-Encoding: chunked\r\n\r\n5;x=", b"a"),
    "small chunks": (OK + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\na\r\n"),
    "trailers": (OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n", b"X: a\r\n"),
}
IN_A_HEAD = ("a status line", "a header", "interim answers", "headers of an interim answer")


@pytest.fixture
def short_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the deadline of every request end after 0.3 s, before any other timeout."""
    monkeypatch.setattr("mirror.http.deadlines.REQUEST_SECONDS", 0.3)


@pytest.fixture
def servers() -> Iterator[ExitStack]:
    with ExitStack() as running:
        yield running


def _reference(server: DrippingServer) -> Reference:
    return Reference.parse(f"{server.host}/team/app:1")


@pytest.mark.usefixtures("short_deadline")
@pytest.mark.parametrize(("head", "drip"), ENDLESS.values(), ids=ENDLESS.keys())
def test_an_endless_manifest_ends_at_its_deadline_and_is_not_retried(
    servers: ExitStack, client_of: MakeClient, waits: list[float], head: bytes, drip: bytes
) -> None:
    server = servers.enter_context(DrippingServer(head, drip))
    client = client_of(insecure_registries=frozenset({server.host}))
    with pytest.raises(MirrorError) as caught:
        get_manifest(client, _reference(server))
    assert "did not finish its answer within" in caught.value.message or "headers" in caught.value.message
    assert "reached" not in caught.value.message
    assert caught.value.code == "SOURCE_FAILED"
    assert (server.accepted, waits) == (1, [])
    eventually(lambda: server.listeners == 0, what="its connection is closed")


@pytest.mark.usefixtures("short_deadline")
@pytest.mark.parametrize("drip", [b"HTTP/1.1 100 Continue\r\n\r\n", b"0"])
def test_an_endless_fast_response_ends_too(servers: ExitStack, client_of: MakeClient, drip: bytes) -> None:
    head = b"" if drip.startswith(b"HTTP") else OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\nX: "
    server = servers.enter_context(DrippingServer(head, drip * 100, seconds=0))
    client = client_of(insecure_registries=frozenset({server.host}))
    with pytest.raises(MirrorError):
        get_manifest(client, _reference(server))
    eventually(lambda: server.listeners == 0, what="its connection is closed")


@pytest.mark.usefixtures("short_deadline")
@pytest.mark.parametrize("name", IN_A_HEAD)
def test_a_head_request_and_the_start_of_a_blob_have_a_deadline(
    servers: ExitStack, client_of: MakeClient, name: str
) -> None:
    server = servers.enter_context(DrippingServer(*ENDLESS[name]))
    client = client_of(insecure_registries=frozenset({server.host}))
    for ask in (client.head_manifest, lambda reference: client.open_blob(reference, BLOB)):
        with pytest.raises(SourceTooSlow, match="within"):
            ask(_reference(server))
    assert server.accepted == 2


@pytest.mark.usefixtures("short_deadline")
def test_an_endless_tls_handshake_ends_at_the_deadline(servers: ExitStack, client_of: MakeClient) -> None:
    """The server announces a record of 16 KiB and sends it byte by byte."""
    server = servers.enter_context(DrippingServer(b"\x16\x03\x03\x40\x00", b"\x00", at_once=True))
    with pytest.raises(SourceTooSlow):
        get_manifest(client_of(), _reference(server))
    assert server.accepted == 1
    eventually(lambda: server.listeners == 0, what="its connection is closed")


REFUSALS = [
    (b"401 Unauthorized", b"WWW-Authenticate: Basic realm=x\r\n", Unauthorized),
    (b"401 Unauthorized", b"", SourceFailed),
    (b"403 Forbidden", b"", Denied),
    (b"404 Not Found", b"", (BlobUnknown, ManifestUnknown)),
    (b"429 Too Many Requests", b"", RateLimited),
    (b"307 Temporary Redirect", b"Location: /again\r\n", SourceFailed),
]


@pytest.mark.parametrize("length", [b"Content-Length: 1000\r\n", b"Content-Length: 9999999\r\n", b"", b"chunked"])
@pytest.mark.parametrize(("status", "header", "expected"), REFUSALS, ids=lambda value: str(value)[:20])
def test_an_unneeded_slow_body_is_not_waited_for_and_its_connection_is_closed(
    servers: ExitStack,
    client_of: MakeClient,
    monkeypatch: pytest.MonkeyPatch,
    status: bytes,
    header: bytes,
    expected: type[MirrorError] | tuple[type[MirrorError], ...],
    length: bytes,
) -> None:
    """It is closed long before the deadline of the request, which is a minute here."""
    monkeypatch.setattr("mirror.http.deadlines.DRAIN_SECONDS", 0.05)
    drip = b"a"
    if length == b"chunked":
        length, drip = b"Transfer-Encoding: chunked\r\n", b"1\r\na\r\n"
    server = servers.enter_context(DrippingServer(b"HTTP/1.1 " + status + b"\r\n" + header + length + b"\r\n", drip))
    client = client_of(insecure_registries=frozenset({server.host}))
    for ask in (partial(get_manifest, client), lambda reference: client.open_blob(reference, BLOB)):
        with pytest.raises(expected):
            ask(_reference(server))
        eventually(lambda: server.listeners == 0, what="all connections are closed")


@pytest.mark.usefixtures("short_deadline")
def test_all_threads_give_up_a_token_that_never_arrives(client_of: MakeClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """One thread fetches the token. The others wait within deadlines of their own."""
    never = threading.Event()
    with FakeRegistry(tokens=Tokens()) as registry:
        registry.script(faults.faulty(faults.held_until(never, 3), server="token"))
        client = client_of(registry)
        reference = Reference.parse(f"{registry.host}/team/app:1")

        def ask(_: int) -> str:
            with pytest.raises(SourceTooSlow) as caught:
                client.head_manifest(reference)
            return caught.value.message

        with ThreadPoolExecutor(8) as pool:
            assert all("within" in message for message in pool.map(ask, range(8)))
        assert len(registry.log("token")) < 8
        never.set()


@pytest.mark.usefixtures("short_deadline")
def test_all_threads_give_up_a_challenge_that_never_arrives(
    client_of: MakeClient, registry: FakeRegistry, config: Path
) -> None:
    """The registry hides its images from anonymous clients, so ``/v2/`` is asked."""
    answered = threading.Event()

    def hold(request: Request, _: Reply) -> None:
        if request.path == "/v2/":
            assert answered.wait(60)

    registry.script(hold)
    client = client_of(registry, docker_config=config)

    def ask(number: int) -> None:
        with pytest.raises(SourceTooSlow, match="within"):
            get_manifest(client, Reference.parse(f"{registry.host}/hidden/app{number}:1"))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(ask, range(8)))
    assert len([request for request in registry.log() if request.path == "/v2/"]) < 8
    answered.set()


def test_a_well_behaved_registry_is_read_over_one_connection(client_of: MakeClient) -> None:
    """The 401 and the redirect are read completely, though they arrive in pieces."""
    with FakeRegistry(tokens=Tokens(), redirect_blobs=True) as registry:
        content = b"0123456789"
        digest = Digest.of(content)
        for number in range(4):
            registry.put_blob(f"team/app{number}", digest, content)
        registry.script(faults.faulty(faults.chunked(), server="api"))
        client = client_of(registry)
        for number in range(4):
            reference = Reference.parse(f"{registry.host}/team/app{number}:1")
            with client.open_blob(reference, Descriptor("application/octet-stream", digest, 10)) as stream:
                buffer = memoryview(bytearray(20))
                assert stream.readinto(buffer) == 10
        asked = [request.server for request in registry.log()]
        assert (asked.count("api"), asked.count("token"), asked.count("cdn")) == (1 + 4, 4, 4)
        assert registry.connections == {"api": 1, "token": 1, "cdn": 1}
