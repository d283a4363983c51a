"""Connections go to the checked address, and TLS still verifies the name."""

from __future__ import annotations

import ipaddress
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from mirror.errors import AddressNotAllowed, CertificateInvalid, SourceUnreachable
from mirror.http.address_guard import AddressGuard
from mirror.http.transport import Transport
from tests.integration.http.conftest import LOOPBACK
from tests.support.fakes.certificates import Authority
from tests.support.fakes.server import HttpServer, Reply

Found = list[tuple[socket.AddressFamily, Any]]


class Resolver:
    """Returns the given addresses in order, then always the last ones."""

    def __init__(self, *answers: list[str]) -> None:
        self._answers = list(answers)
        self.asked: list[str] = []

    def __call__(self, host: str, port: int) -> Found:
        self.asked.append(host)
        addresses = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        return [(socket.AF_INET6 if ":" in a else socket.AF_INET, (a, port)) for a in addresses]


@pytest.fixture
def server() -> Iterator[HttpServer]:
    with HttpServer("open", lambda _: Reply(200, body=b"hello")) as running:
        yield running


def _port(server: HttpServer) -> int:
    return int(server.server_address[1])


def _get(transport: Transport, url: str) -> bytes:
    with transport.request("GET", url, {}, server="registry.example") as response:
        return response.read(1000, "a greeting")


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "localhost",
        "127.1",
        "2130706433",
        "0x7f000001",
        "0177.0.0.1",
        "0.0.0.0",
        "[::1]",
        "[::ffff:127.0.0.1]",
    ],
)
def test_no_spelling_of_loopback_is_connected_to(server: HttpServer, host: str) -> None:
    transport = Transport(AddressGuard())
    with pytest.raises(AddressNotAllowed):
        _get(transport, f"http://{host}:{_port(server)}/")
    assert server.connections == 0


@pytest.mark.parametrize("addresses", [["127.0.0.1"], ["8.8.8.8", "127.0.0.1"], ["127.0.0.1", "8.8.8.8"]])
def test_a_name_with_one_forbidden_address_is_refused_before_any_connection(
    server: HttpServer, addresses: list[str]
) -> None:
    transport = Transport(AddressGuard(), resolve=Resolver(addresses))
    with pytest.raises(AddressNotAllowed):
        _get(transport, f"http://rebind.example:{_port(server)}/")
    assert server.connections == 0


def test_a_name_is_resolved_once_so_rebinding_has_no_effect(server: HttpServer) -> None:
    resolver = Resolver(["127.0.0.1"], ["169.254.169.254"])
    transport = Transport(AddressGuard(LOOPBACK), resolve=resolver)
    assert _get(transport, f"http://rebind.example:{_port(server)}/") == b"hello"
    assert resolver.asked == ["rebind.example"]
    transport.close()


def test_a_name_that_later_resolves_to_loopback_is_refused_then(server: HttpServer) -> None:
    """The first address is allowed and refuses. The attacker wants the second one."""
    guard = AddressGuard([ipaddress.ip_network("127.0.0.2/32")])
    transport = Transport(guard, resolve=Resolver(["127.0.0.2"], ["127.0.0.1"]))
    with pytest.raises(SourceUnreachable):
        _get(transport, f"http://rebind.example:{_port(server)}/")
    with pytest.raises(AddressNotAllowed):
        _get(transport, f"http://rebind.example:{_port(server)}/")
    assert server.connections == 0


def test_the_next_address_is_tried_if_one_refuses(server: HttpServer) -> None:
    transport = Transport(AddressGuard(LOOPBACK), resolve=Resolver(["127.0.0.2", "127.0.0.1"]))
    assert _get(transport, f"http://two.example:{_port(server)}/") == b"hello"
    transport.close()


def test_a_name_without_addresses_is_unreachable() -> None:
    transport = Transport(AddressGuard(), resolve=Resolver([]))
    with pytest.raises(SourceUnreachable, match="no address"):
        _get(transport, "http://nowhere.example/")


def test_a_proxy_in_the_environment_is_ignored(server: HttpServer, monkeypatch: pytest.MonkeyPatch) -> None:
    with HttpServer("proxy", lambda _: Reply(200, body=b"from the proxy")) as proxy:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://{proxy.host}")
        transport = Transport(AddressGuard(LOOPBACK))
        assert _get(transport, f"http://{server.host}/") == b"hello"
        assert proxy.connections == 0
        transport.close()


def test_a_netrc_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("default login user password secret\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    with HttpServer("echo", lambda request: Reply(200, body=request.headers.get("Authorization", "").encode())) as echo:
        transport = Transport(AddressGuard(LOOPBACK))
        assert _get(transport, f"http://{echo.host}/") == b""
        transport.close()


def test_tls_verifies_the_name_though_the_address_is_connected_to(tmp_path: Path) -> None:
    names: list[str | None] = []
    issued = Authority(tmp_path).issue("registry.example")
    context = issued.context()
    context.sni_callback = lambda _socket, name, _context: names.append(name)
    with HttpServer("tls", lambda _: Reply(200, body=b"hello"), tls=context) as server:
        trusting = Transport(AddressGuard(LOOPBACK), resolve=Resolver(["127.0.0.1"]), ca_certs=str(issued.authority))
        assert _get(trusting, f"https://registry.example:{_port(server)}/") == b"hello"
        with pytest.raises(CertificateInvalid, match="for another name"):
            _get(trusting, f"https://other.example:{_port(server)}/")
        suspicious = Transport(AddressGuard(LOOPBACK), resolve=Resolver(["127.0.0.1"]))
        with pytest.raises(CertificateInvalid, match="not trusted"):
            _get(suspicious, f"https://registry.example:{_port(server)}/")
        trusting.close()
        suspicious.close()
    assert names == ["registry.example", "other.example", "registry.example"]


def test_one_transport_serves_many_threads(server: HttpServer) -> None:
    transport = Transport(AddressGuard(LOOPBACK))
    found: list[bytes] = []
    threads = [
        threading.Thread(target=lambda: found.append(_get(transport, f"http://{server.host}/"))) for _ in range(16)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [b"hello"] * 16
    transport.close()


@pytest.fixture
def full_port() -> Iterator[int]:
    """The port of a listening socket that never accepts. Connecting to it never ends."""
    with ExitStack() as running:
        listening = running.enter_context(socket.socket())
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        for _ in range(3):
            filling = running.enter_context(socket.socket())
            filling.settimeout(0)
            filling.connect_ex(listening.getsockname())
        yield int(listening.getsockname()[1])


def _addresses(count: int, port: int) -> list[tuple[socket.AddressFamily, Any]]:
    return [(socket.AF_INET, ("127.0.0.1", port))] * count


def test_many_addresses_that_do_not_answer_have_one_deadline_together(
    full_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mirror.http.deadlines.REQUEST_SECONDS", 0.5)
    monkeypatch.setattr("mirror.http.guarded_connections.CONNECT_SECONDS", 0.1)
    monkeypatch.setattr("mirror.http.transport.CONNECT_SECONDS", 0.1)
    tried: list[int] = []

    connect = socket.socket.connect_ex

    def counting(self: socket.socket, address: Any) -> int:
        tried.append(1)
        return connect(self, address)

    monkeypatch.setattr(socket.socket, "connect_ex", counting)
    transport = Transport(AddressGuard(LOOPBACK), resolve=lambda _host, port: _addresses(100, port))
    with pytest.raises(SourceUnreachable, match="no connection was made in time") as caught:
        transport.request("GET", f"http://many.example:{full_port}/", {}, server="many.example")
    assert caught.value.out_of_time
    assert len(tried) < 10
    transport.close()


@pytest.mark.usefixtures("short_deadline")
def test_a_name_that_is_not_resolved_in_time_is_unreachable() -> None:
    answered = threading.Event()

    def resolve(_host: str, _port: int) -> list[tuple[socket.AddressFamily, Any]]:
        assert answered.wait(60)
        return []

    transport = Transport(AddressGuard(LOOPBACK), resolve=resolve)
    with pytest.raises(SourceUnreachable, match="not resolved in time") as caught:
        transport.request("GET", "http://slow.example/", {}, server="slow.example")
    assert caught.value.out_of_time
    answered.set()
    transport.close()
