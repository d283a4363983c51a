"""The address that was judged is the address that is connected to, and TLS still checks the name."""

from __future__ import annotations

import ipaddress
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mirror.errors import AddressNotAllowed, CertificateInvalid, SourceUnreachable
from mirror.http.address_guard import AddressGuard
from mirror.http.transport import Transport
from tests.fakes.server import HttpServer, Reply
from tests.unit.registry.certificates import Authority
from tests.unit.registry.conftest import LOOPBACK

Found = list[tuple[socket.AddressFamily, Any]]


class Resolver:
    """Answers what it is told, in turn, the last answer for good; remembers what it was asked."""

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
    with transport.request("GET", url, {}, registry="registry.example") as answer:
        return answer.read(1000, "a greeting")


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


def test_a_name_is_resolved_once_so_a_second_answer_cannot_mislead(server: HttpServer) -> None:
    resolver = Resolver(["127.0.0.1"], ["169.254.169.254"])
    transport = Transport(AddressGuard(LOOPBACK), resolve=resolver)
    assert _get(transport, f"http://rebind.example:{_port(server)}/") == b"hello"
    assert resolver.asked == ["rebind.example"]
    transport.close()


def test_a_name_that_turns_to_loopback_later_is_refused_then(server: HttpServer) -> None:
    """The first answer may be connected to, and nothing listens there; the second is what the attacker is after."""
    guard = AddressGuard([ipaddress.ip_network("127.0.0.2/32")])
    transport = Transport(guard, resolve=Resolver(["127.0.0.2"], ["127.0.0.1"]))
    with pytest.raises(SourceUnreachable):
        _get(transport, f"http://rebind.example:{_port(server)}/")
    with pytest.raises(AddressNotAllowed):
        _get(transport, f"http://rebind.example:{_port(server)}/")
    assert server.connections == 0


def test_the_next_address_is_tried_where_one_does_not_answer(server: HttpServer) -> None:
    transport = Transport(AddressGuard(LOOPBACK), resolve=Resolver(["127.0.0.2", "127.0.0.1"]))
    assert _get(transport, f"http://two.example:{_port(server)}/") == b"hello"
    transport.close()


def test_a_name_without_addresses_is_unreachable() -> None:
    transport = Transport(AddressGuard(), resolve=Resolver([]))
    with pytest.raises(SourceUnreachable, match="no address"):
        _get(transport, "http://nowhere.example/")


def test_a_proxy_in_the_environment_is_not_asked(server: HttpServer, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_tls_checks_the_name_while_the_judged_address_is_connected_to(tmp_path: Path) -> None:
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
