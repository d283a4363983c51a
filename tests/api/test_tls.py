"""The service over TLS: real clients, other protocols, the end of connections."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import ssl
import subprocess
from pathlib import Path

import pytest

from deploy.image import health
from deploy.local import readiness
from mirror.oci.digest import Digest
from tests.api.live_service import WITHIN
from tests.api.seeded_catalog import SeededCatalog
from tests.api.test_live import LARGE
from tests.api.tls_service import ADDRESS, TlsService, get
from tests.support import images
from tests.support.servers import program
from tests.support.servers.process import ended_within


def test_blobs_and_links_come_over_tls(tls: TlsService, live_mirror: SeededCatalog) -> None:
    digest = live_mirror.link_blob("live/tls", LARGE)
    with tls.client() as client:
        whole = client.request("GET", f"{tls.url}/v2/live/tls/blobs/{digest}")
        assert (whole.status, Digest.of(whole.data)) == (200, Digest.of(LARGE))
        part = client.request("GET", f"{tls.url}/v2/live/tls/blobs/{digest}", headers={"Range": "bytes=1000-300000"})
        assert (part.status, part.data) == (206, LARGE[1000:300001])
        body = b'{"source": "docker.io/library/alpine:3.20"}'
        job = client.request("POST", f"{tls.url}/v1/jobs", body=body, headers=dict(tls.headers))
    assert job.status == 202
    assert job.headers["Location"].startswith(f"{tls.url}/v1/jobs/"), "the default public URL has https"
    assert tls.troubles() == []


@pytest.mark.skopeo
def test_skopeo_pulls_over_tls(tls: TlsService, live_mirror: SeededCatalog, tmp_path: Path) -> None:
    made = images.image(images.layer("tls", compressed=True))
    live_mirror.hold(made, "live/skopeo:1")
    (tmp_path / "certificates").mkdir()
    shutil.copy(tls.secret.authority, tmp_path / "certificates" / "ca.crt")
    names = [f"docker://{tls.host}/live/skopeo:1", f"dir:{tmp_path / 'pulled'}"]
    trust = ["--src-cert-dir", str(tmp_path / "certificates")]
    subprocess.run([program("skopeo"), "copy", *trust, *names], check=True, capture_output=True)
    assert Digest.of((tmp_path / "pulled" / "manifest.json").read_bytes()) == made.digest


@pytest.mark.parametrize(
    ("version", "is_served"),
    [(ssl.TLSVersion.TLSv1_1, False), (ssl.TLSVersion.TLSv1_2, True), (ssl.TLSVersion.TLSv1_3, True)],
)
@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1 is deprecated:DeprecationWarning")
def test_tls_begins_with_1_2(tls: TlsService, version: ssl.TLSVersion, is_served: bool) -> None:
    context = ssl.create_default_context(cafile=str(tls.secret.authority))
    context.minimum_version = context.maximum_version = version
    context.set_ciphers("DEFAULT:@SECLEVEL=0")  # otherwise our own side would refuse the old version
    context.set_alpn_protocols(["h2", "http/1.1"])
    with tls.connect_plain() as plain:
        if is_served:
            with context.wrap_socket(plain, server_hostname=ADDRESS) as client:
                assert client.version() == version.name.replace("_", ".")
                assert client.selected_alpn_protocol() == "http/1.1"
        else:
            with pytest.raises(ssl.SSLError, match=r"(?i)protocol version"):
                context.wrap_socket(plain, server_hostname=ADDRESS)
    assert tls.troubles() == []


def test_the_end_of_an_answer_is_clean(tls: TlsService) -> None:
    with tls.connect(get("/livez", close=True)) as client:
        received = b""
        while piece := client.recv(1024):  # raises SSLEOFError without a close_notify
            received += piece
    assert received.startswith(b"HTTP/1.1 200")


def test_plain_http_is_told_to_use_https(tls: TlsService) -> None:
    with tls.connect_plain(b"GET /v2/ HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer secret-line\r\n\r\n") as client:
        received = b"".join(iter(lambda: client.recv(1024), b""))
    assert received.startswith(b"HTTP/1.0 400 Bad Request\r\n")
    assert b"Use https://" in received
    assert tls.served_certificate()
    assert tls.troubles() == []
    assert "secret-line" not in tls.text()


@pytest.mark.parametrize("beginning", [b"\x00\x01\x02", b"\x16\x03\x01\x00\x05hello", b"\x80" * 5000, b"\r\n"])
def test_what_is_neither_tls_nor_http_is_closed_without_a_log_line(tls: TlsService, beginning: bytes) -> None:
    with tls.connect_plain(beginning) as client:
        try:
            while client.recv(1024):
                pass
        except ConnectionResetError:
            pass
    assert tls.served_certificate()
    assert tls.troubles() == []
    assert "Traceback" not in tls.text()


def test_a_client_that_breaks_tls_later_is_closed_without_a_log_line(tls: TlsService) -> None:
    with tls.connect(get("/livez")) as client:
        assert client.recv(1024).startswith(b"HTTP/1.1 200")
        with socket.socket(fileno=client.detach()) as plain:
            plain.settimeout(WITHIN)
            plain.sendall(b"this is no record of TLS" * 10)
            try:
                while plain.recv(1024):
                    pass
            except ConnectionResetError:
                pass
    assert tls.served_certificate()
    assert tls.troubles() == []
    assert "Traceback" not in tls.text()


def test_sigterm_closes_idle_connections_and_ends_streams(own_tls: TlsService, live_mirror: SeededCatalog) -> None:
    path = f"/v2/live/term/blobs/{live_mirror.link_blob('live/term', LARGE)}"
    with own_tls.connect_plain() as silent, own_tls.connect() as idle, own_tls.connect(get(path)) as reading:
        assert reading.recv(1024).startswith(b"HTTP/1.1 200")
        process = own_tls._process
        assert process
        process.send_signal(signal.SIGTERM)
        assert ended_within(process, 10)
        assert process.returncode == 0
        assert silent.recv(1) == b""
        with pytest.raises(ssl.SSLEOFError):
            idle.recv(1)
    assert "Traceback" not in own_tls.text()


def test_the_health_check_and_make_run_see_a_service_with_tls(
    tls: TlsService, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in [name for name in os.environ if name.startswith("MIRROR_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("MIRROR_PORT", str(tls.port))
    assert health.main(b"python\0-m\0service\0") == 1, "plain HTTP is not what it speaks"
    monkeypatch.setenv("MIRROR_TLS_CERTIFICATE", "/not/read/here")
    monkeypatch.setenv("MIRROR_TLS_KEY", "/not/read/here")
    assert health.main(b"python\0-m\0service\0") == 0
    readiness.main("https", ADDRESS, tls.port, tls.url)
    assert capsys.readouterr().out == f"Ready: {tls.url}\n"
