"""Servers that send a byte now and then, which no timeout between two reads ever ends."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from mirror.errors import (
    BlobUnknown,
    Denied,
    ManifestUnknown,
    MirrorError,
    RateLimited,
    SourceFailed,
    SourceTooSlow,
    SourceUnreachable,
    Unauthorized,
)
from mirror.http.address_guard import AddressGuard
from mirror.http.transport import Transport
from mirror.oci.descriptor import Descriptor
from mirror.oci.digest import Digest
from mirror.oci.reference import Reference
from tests.e2e.processes import eventually
from tests.fakes import faults
from tests.fakes.registry import FakeRegistry, Reply, Request, Tokens
from tests.fakes.sockets import DrippingServer
from tests.unit.registry.conftest import LOOPBACK, MakeClient

OK = b"HTTP/1.1 200 OK\r\n"
BLOB = Descriptor("application/octet-stream", Digest.of(b"content"), 7)

ENDLESS = {
    "a status line": (b"", b"a"),
    "a header": (OK + b"X: ", b"a"),
    "headers": (OK, b"X: a\r\n"),
    "a body": (OK + b"Content-Length: 100000\r\n\r\n", b"a"),
    "a body of no told length": (OK + b"\r\n", b"a"),
    "interim answers": (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "headers of an interim answer": (b"HTTP/1.1 103 Early Hints\r\n", b"Link: a\r\n"),
    "a chunk's size": (OK + b"Transfer-Encoding: chunked\r\n\r\n", b"0"),
    "a chunk's extension": (OK + b"Transfer-Encoding: chunked\r\n\r\n5;x=", b"a"),
    "small chunks": (OK + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\na\r\n"),
    "trailers": (OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n", b"X: a\r\n"),
}
IN_A_HEAD = ("a status line", "a header", "interim answers", "headers of an interim answer")


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give up after moments instead of a minute, and long before the timeout between two reads."""
    monkeypatch.setattr("mirror.http.deadlines.EXCHANGE_SECONDS", 0.3)


@pytest.fixture
def servers() -> Iterator[ExitStack]:
    with ExitStack() as running:
        yield running


def _reference(server: DrippingServer) -> Reference:
    return Reference.parse(f"{server.host}/team/app:1")


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(("head", "drip"), ENDLESS.values(), ids=ENDLESS.keys())
def test_a_manifest_that_never_ends_is_given_up_at_its_deadline_and_not_asked_for_again(
    servers: ExitStack, client_of: MakeClient, waits: list[float], head: bytes, drip: bytes
) -> None:
    server = servers.enter_context(DrippingServer(head, drip))
    client = client_of(insecure_registries=frozenset({server.host}))
    with pytest.raises(MirrorError) as caught:
        client.get_manifest(_reference(server))
    assert "did not finish its answer within" in caught.value.message or "headers" in caught.value.message
    assert "reached" not in caught.value.message
    assert caught.value.code == "SOURCE_FAILED"
    assert (server.accepted, waits) == (1, [])
    eventually(lambda: server.listeners == 0, what="its connection is closed")


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("drip", [b"HTTP/1.1 100 Continue\r\n\r\n", b"0"])
def test_a_server_that_sends_without_end_and_without_a_pause_is_given_up_too(
    servers: ExitStack, client_of: MakeClient, drip: bytes
) -> None:
    head = b"" if drip.startswith(b"HTTP") else OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\nX: "
    server = servers.enter_context(DrippingServer(head, drip * 100, seconds=0))
    client = client_of(insecure_registries=frozenset({server.host}))
    with pytest.raises(MirrorError):
        client.get_manifest(_reference(server))
    eventually(lambda: server.listeners == 0, what="its connection is closed")


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("name", IN_A_HEAD)
def test_a_look_and_the_head_of_a_blob_have_a_deadline_too(
    servers: ExitStack, client_of: MakeClient, name: str
) -> None:
    server = servers.enter_context(DrippingServer(*ENDLESS[name]))
    client = client_of(insecure_registries=frozenset({server.host}))
    for ask in (client.head_manifest, lambda reference: client.open_blob(reference, BLOB)):
        with pytest.raises(SourceTooSlow, match="within"):
            ask(_reference(server))
    assert server.accepted == 2


@pytest.mark.usefixtures("impatient")
def test_a_tls_handshake_that_never_ends_is_given_up_at_the_deadline(servers: ExitStack, client_of: MakeClient) -> None:
    """A record of 16 KiB is announced, and comes byte by byte."""
    server = servers.enter_context(DrippingServer(b"\x16\x03\x03\x40\x00", b"\x00", at_once=True))
    with pytest.raises(SourceTooSlow):
        client_of().get_manifest(_reference(server))
    assert server.accepted == 1
    eventually(lambda: server.listeners == 0, what="its connection is closed")


def _full_backlog(running: ExitStack) -> int:
    """The port of a socket that is listened on and never accepts: to connect to it takes for ever."""
    listening = running.enter_context(socket.socket())
    listening.bind(("127.0.0.1", 0))
    listening.listen(0)
    for _ in range(3):
        filling = running.enter_context(socket.socket())
        filling.settimeout(0)
        filling.connect_ex(listening.getsockname())
    return int(listening.getsockname()[1])


def _addresses(count: int, port: int) -> list[tuple[socket.AddressFamily, Any]]:
    return [(socket.AF_INET, ("127.0.0.1", port))] * count


def test_many_addresses_that_do_not_answer_have_one_deadline_together(
    servers: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mirror.http.deadlines.EXCHANGE_SECONDS", 0.5)
    monkeypatch.setattr("mirror.http.guarded_connections.CONNECT_SECONDS", 0.1)
    monkeypatch.setattr("mirror.http.transport.CONNECT_SECONDS", 0.1)
    tried: list[int] = []

    port = _full_backlog(servers)
    connect = socket.socket.connect_ex

    def counting(self: socket.socket, address: Any) -> int:
        tried.append(1)
        return connect(self, address)

    monkeypatch.setattr(socket.socket, "connect_ex", counting)
    transport = Transport(AddressGuard(LOOPBACK), resolve=lambda _host, port: _addresses(100, port))
    with pytest.raises(SourceUnreachable, match="no connection was made in time") as caught:
        transport.request("GET", f"http://many.example:{port}/", {}, registry="many.example")
    assert caught.value.out_of_time
    assert len(tried) < 10
    transport.close()


@pytest.mark.usefixtures("impatient")
def test_a_name_that_is_not_resolved_holds_nobody_up() -> None:
    answered = threading.Event()

    def resolve(_host: str, _port: int) -> list[tuple[socket.AddressFamily, Any]]:
        assert answered.wait(60)
        return []

    transport = Transport(AddressGuard(LOOPBACK), resolve=resolve)
    with pytest.raises(SourceUnreachable, match="not resolved in time") as caught:
        transport.request("GET", "http://slow.example/", {}, registry="slow.example")
    assert caught.value.out_of_time
    answered.set()
    transport.close()


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
def test_a_body_that_nobody_needs_is_not_waited_for_and_its_connection_is_closed(
    servers: ExitStack,
    client_of: MakeClient,
    monkeypatch: pytest.MonkeyPatch,
    status: bytes,
    header: bytes,
    expected: type[MirrorError] | tuple[type[MirrorError], ...],
    length: bytes,
) -> None:
    """Long before the deadline of the request, which is a minute here."""
    monkeypatch.setattr("mirror.http.deadlines.DRAIN_SECONDS", 0.05)
    drip = b"a"
    if length == b"chunked":
        length, drip = b"Transfer-Encoding: chunked\r\n", b"1\r\na\r\n"
    server = servers.enter_context(DrippingServer(b"HTTP/1.1 " + status + b"\r\n" + header + length + b"\r\n", drip))
    client = client_of(insecure_registries=frozenset({server.host}))
    for ask in (client.get_manifest, lambda reference: client.open_blob(reference, BLOB)):
        with pytest.raises(expected):
            ask(_reference(server))
        eventually(lambda: server.listeners == 0, what="all connections are closed")


@pytest.mark.usefixtures("impatient")
def test_a_token_that_never_comes_is_given_up_by_all_who_wait_for_it(
    client_of: MakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One thread asks for the token, and the others have deadlines of their own: not one after the other."""
    never = threading.Event()
    with FakeRegistry(tokens=Tokens()) as registry:
        registry.script(faults.faulty(faults.gated(never, 3), server="token"))
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


@pytest.mark.usefixtures("impatient")
def test_a_challenge_that_never_comes_is_given_up_by_all_who_wait_for_it(
    client_of: MakeClient, registry: FakeRegistry, config: Path
) -> None:
    """As a registry's that hides what it has from those who are not logged in: its ``/v2/`` is asked then."""
    answered = threading.Event()

    def hold(request: Request, _: Reply) -> None:
        if request.path == "/v2/":
            assert answered.wait(60)

    registry.script(hold)
    client = client_of(registry, docker_config=config)

    def ask(number: int) -> None:
        with pytest.raises(SourceTooSlow, match="within"):
            client.get_manifest(Reference.parse(f"{registry.host}/hidden/app{number}:1"))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(ask, range(8)))
    assert len([request for request in registry.log() if request.path == "/v2/"]) < 8
    answered.set()


def test_a_registry_in_good_order_is_asked_over_one_connection(client_of: MakeClient) -> None:
    """The refusal before the token and the redirect are read to their ends, though they arrive in several pieces."""
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
