"""The errors if only one side speaks TLS, or if a certificate is not accepted."""

from __future__ import annotations

import datetime
import socketserver
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from mirror.errors import (
    CertificateInvalid,
    MirrorError,
    PlainHttpNotAllowed,
    SourceError,
    SourceUnreachable,
    TlsExpected,
)
from mirror.oci.descriptor import Descriptor
from mirror.oci.digest import Digest
from mirror.oci.reference import Reference
from mirror.registry.client import RegistryClient
from mirror.settings import Settings
from tests.integration.registry.conftest import REPOSITORY, MakeClient, get_manifest
from tests.support.fakes import faults
from tests.support.fakes.certificates import Authority
from tests.support.fakes.registry import FakeRegistry
from tests.support.fakes.sockets import RawServer
from tests.support.images import TestImage

PLAIN = {
    "Go": b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nConnection: close\r\n\r\n400 Bad Request",
    "nginx": b"HTTP/1.1 400 Bad Request\r\nServer: nginx\r\n\r\n<html>",
    "HTTP/0.9": b"<!DOCTYPE HTML><html></html>",
}


class FixedReplyServer(socketserver.ThreadingTCPServer):
    """Sends fixed bytes after the first bytes of a connection, and closes it."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, answer: bytes) -> None:
        super().__init__(("127.0.0.1", 0), _FixedReplyHandler)
        self.answer = answer
        self.connections = 0
        self.host = f"127.0.0.1:{self.server_address[1]}"


class _FixedReplyHandler(socketserver.BaseRequestHandler):
    server: FixedReplyServer

    def handle(self) -> None:
        self.server.connections += 1
        self.request.recv(65536)
        self.request.sendall(self.server.answer)


@pytest.fixture
def fixed_reply_server(request: pytest.FixtureRequest) -> Iterator[FixedReplyServer]:
    with FixedReplyServer(request.param) as server:
        threading.Thread(target=partial(server.serve_forever, 0.01), daemon=True).start()
        yield server
        server.shutdown()


def refused(client: RegistryClient, host: str) -> MirrorError:
    """Return the error of reading an image at *host*."""
    with pytest.raises(SourceError) as caught:
        get_manifest(client, Reference.parse(f"{host}/{REPOSITORY}:1"))
    return caught.value


@pytest.mark.parametrize("fixed_reply_server", [PLAIN["Go"], PLAIN["nginx"], PLAIN["HTTP/0.9"]], indirect=True)
def test_the_error_for_a_registry_without_tls_says_how_to_allow_it(
    client_of: MakeClient, fixed_reply_server: FixedReplyServer
) -> None:
    error = refused(client_of(), fixed_reply_server.host)
    assert isinstance(error, PlainHttpNotAllowed)
    assert "speaks plain HTTP" in error.message
    assert f"add '{fixed_reply_server.host}' to MIRROR_INSECURE_REGISTRIES" in error.hint
    assert not error.retryable
    assert fixed_reply_server.connections == 1


def test_the_setting_accepts_what_the_hint_names(
    client_of: MakeClient, registry: FakeRegistry, reference: Reference, monkeypatch: pytest.MonkeyPatch, app: TestImage
) -> None:
    error = refused(client_of(), registry.host)
    monkeypatch.setenv("MIRROR_INSECURE_REGISTRIES", error.hint.split("'")[1])
    allowed = client_of(insecure_registries=Settings.load().insecure_registries)
    assert get_manifest(allowed, reference).body == app.body


@pytest.mark.parametrize("fixed_reply_server", [b""], indirect=True)
def test_a_server_that_hangs_up_on_tls_may_speak_plain_http(
    client_of: MakeClient, fixed_reply_server: FixedReplyServer
) -> None:
    error = refused(client_of(), fixed_reply_server.host)
    assert isinstance(error, SourceUnreachable)
    assert "TLS failed" in error.message
    assert f"'{fixed_reply_server.host}' to MIRROR_INSECURE_REGISTRIES" in error.hint


BLOB = Descriptor("application/octet-stream", Digest.of(b"nowhere"), 7)


@pytest.mark.parametrize(
    ("location", "named"),
    [
        ("http://files.example/blob?secret", "files.example:80"),
        ("http://files.example:8080/blob?secret", "files.example:8080"),
        ("http://files.example:443/blob?secret", "files.example:443"),
        ("http://[2001:db8::1]:8080/blob?secret", "[2001:db8::1]:8080"),
    ],
)
def test_a_refused_redirect_to_plain_http_names_what_to_allow(
    client: RegistryClient, registry: FakeRegistry, reference: Reference, location: str, named: str
) -> None:
    registry.script(faults.faulty(faults.status(307, Location=location)))
    with pytest.raises(PlainHttpNotAllowed, match="without TLS") as caught:
        client.open_blob(reference, BLOB)
    assert f"add '{named}' to MIRROR_INSECURE_REGISTRIES" in caught.value.hint
    assert not caught.value.retryable
    assert "secret" not in caught.value.message + caught.value.hint
    assert len(registry.log()) == 1


def test_a_redirect_to_plain_http_is_followed_after_doing_what_the_hint_says(
    client_of: MakeClient, registry: FakeRegistry, reference: Reference, monkeypatch: pytest.MonkeyPatch, app: TestImage
) -> None:
    """Only the setting that the hint names allows the redirect."""
    registry.redirect_blobs = True
    digest, content = next(iter(app.blobs.items()))
    endpoints = {"registry.example": registry.url}
    source = Reference.parse(f"registry.example/{REPOSITORY}:1")
    blob = Descriptor("application/octet-stream", digest, len(content))
    with pytest.raises(PlainHttpNotAllowed) as caught:
        client_of(registry_endpoints=endpoints).open_blob(source, blob)
    monkeypatch.setenv("MIRROR_INSECURE_REGISTRIES", caught.value.hint.split("'")[1])
    listed = Settings.load().insecure_registries
    with client_of(registry_endpoints=endpoints, insecure_registries=listed).open_blob(source, blob) as stream:
        assert stream.length == len(content)


WANTS_TLS = {
    "Go": b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n",
    "nginx": b"HTTP/1.1 400 Bad Request\r\nContent-Length: 66\r\n\r\n"
    b"<center>The plain HTTP request was sent to HTTPS port</center>    ",
    "Apache": b"HTTP/1.1 400 Bad Request\r\n\r\nReason: You're speaking plain HTTP to an SSL-enabled server port.",
    "Tomcat": b"HTTP/1.1 400\r\n\r\nThis combination of host and port requires TLS.\r\n",
    "an alert": b"\x15\x03\x01\x00\x02\x02\x46",
    "another alert": b"\x15\x03\x03\x00\x02\x02\x0a",
}


@pytest.mark.parametrize("answer", WANTS_TLS.values(), ids=WANTS_TLS.keys())
def test_the_hint_says_to_remove_an_insecure_registry_that_speaks_tls(client_of: MakeClient, answer: bytes) -> None:
    with RawServer(answer) as server:
        error = refused(client_of(insecure_registries=frozenset({server.host})), server.host)
        assert isinstance(error, TlsExpected)
        assert error.hint == f"Remove '{server.host}' from MIRROR_INSECURE_REGISTRIES."
        assert not error.retryable


def test_the_hint_says_to_write_https_for_an_endpoint_that_speaks_tls(client_of: MakeClient) -> None:
    with RawServer(WANTS_TLS["Go"]) as server:
        client = client_of(registry_endpoints={"registry.example": f"http://{server.host}"})
        error = refused(client, "registry.example")
        assert isinstance(error, TlsExpected)
        assert f"Ask {server.host} by https://, in MIRROR_REGISTRY_ENDPOINTS" in error.hint


def test_another_bad_request_is_not_reported_as_tls(client_of: MakeClient) -> None:
    with RawServer(b"HTTP/1.1 400 Bad Request\r\n\r\nName invalid") as server:
        error = refused(client_of(insecure_registries=frozenset({server.host})), server.host)
        assert (error.code, "400" in error.message) == ("SOURCE_FAILED", True)


def test_the_hint_mentions_tls_when_an_insecure_registry_hangs_up(client_of: MakeClient, tmp_path: Path) -> None:
    with FakeRegistry(tls=Authority(tmp_path).issue("127.0.0.1").context()) as encrypted:
        error = refused(client_of(encrypted), encrypted.host)
        assert isinstance(error, SourceUnreachable)
        assert f"Check that {encrypted.host} speaks plain HTTP" in error.hint


# -- certificates

YEAR = partial(datetime.datetime, month=1, day=1, tzinfo=datetime.UTC)


@pytest.mark.parametrize(
    ("host", "first", "last", "trusted", "reason", "advice"),
    [
        ("127.0.0.1", 2020, 2120, False, "signed by a CA that is not trusted", "SSL_CERT_FILE"),
        ("127.0.0.1", 2020, 2021, True, "has expired", "renew"),
        ("127.0.0.1", 2110, 2120, True, "not valid yet", "clock"),
        ("127.0.0.2", 2020, 2120, True, "for another address", "Use the name that the certificate is for"),
        ("other.example", 2020, 2120, True, "for another", "Use the name that the certificate is for"),
    ],
    ids=["untrusted", "expired", "not yet valid", "another address", "another name"],
)
def test_each_problem_of_a_certificate_has_its_own_reason(
    client_of: MakeClient,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    host: str,
    first: int,
    last: int,
    trusted: bool,
    reason: str,
    advice: str,
) -> None:
    issued = Authority(tmp_path).issue(host, not_before=YEAR(first), not_after=YEAR(last))
    if trusted:
        monkeypatch.setenv("SSL_CERT_FILE", str(issued.authority))
    with FakeRegistry(tls=issued.context()) as encrypted:
        error = refused(client_of(), encrypted.host)
        assert isinstance(error, CertificateInvalid)
        assert f"The certificate of the registry {encrypted.host} is" in error.message or "expired" in error.message
        assert reason in error.message
        assert advice in error.hint
        assert not error.retryable
        assert encrypted.connections["api"] == 1


def test_ssl_cert_file_makes_a_private_ca_trusted(
    client_of: MakeClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, app: TestImage
) -> None:
    issued = Authority(tmp_path).issue("127.0.0.1")
    monkeypatch.setenv("SSL_CERT_FILE", str(issued.authority))
    with FakeRegistry(tls=issued.context()) as encrypted:
        encrypted.put(app, REPOSITORY, "1")
        found = get_manifest(client_of(), Reference.parse(f"{encrypted.host}/{REPOSITORY}:1"))
        assert found.body == app.body


def test_an_error_about_the_storages_certificate_names_the_storage(
    client_of: MakeClient, registry: FakeRegistry, tmp_path: Path
) -> None:
    with FakeRegistry(tls=Authority(tmp_path).issue("127.0.0.1").context()) as storage:
        registry.script(faults.faulty(faults.status(307, Location=f"https://{storage.host}/blob?secret")))
        with pytest.raises(CertificateInvalid) as caught:
            client_of(registry).open_blob(Reference.parse(f"{registry.host}/{REPOSITORY}:1"), BLOB)
        assert f"the registry {registry.host}, at {storage.host}," in caught.value.message
        assert "secret" not in caught.value.message
