"""The service over TLS: real sockets to a real process, whose certificate is replaced while it runs."""

from __future__ import annotations

import http.client
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
import urllib3
from cryptography.hazmat.primitives import serialization

from deploy.image import health
from deploy.local import readiness
from mirror.oci.digest import Digest
from mirror.settings import InvalidSettings
from service.http.tls import ServerCertificate, load_context
from tests.api.live_service import LiveService
from tests.api.seeded_catalog import SeededCatalog
from tests.api.slow_clients import Crowd
from tests.api.test_live import LARGE
from tests.api.test_slow_clients import MIB, SECONDS, WITHIN, ImpatientService, many_open_files, resident, until
from tests.support import images
from tests.support.fakes.certificates import Authority, Issued
from tests.support.servers import RcloneS3, ValkeyServer, program
from tests.support.servers.process import ended_within

__all__ = ["many_open_files"]

ADDRESS: Final = "127.0.0.1"
PROCESSES: Final = 2
SILENT: Final = 1000
_BYTES_OF_A_SILENT_CLIENT: Final = 32 * 1024


class MountedSecret:
    """A certificate and its key, mounted as kubelet does it: links that lead through one link, which is replaced."""

    def __init__(self, directory: Path) -> None:
        (directory / "authority").mkdir(parents=True)
        self._directory = directory
        self._authority = Authority(directory / "authority")
        self._versions = 0
        self.certificate, self.key = directory / "tls.crt", directory / "tls.key"
        for link in (self.certificate, self.key):
            link.symlink_to(Path("..data") / link.name)
        self.authority = self.replace().authority

    def replace(self, *, key_of: Issued | None = None) -> Issued:
        """Issue a certificate and let the links lead to it. *key_of* gives a key that may be another one's."""
        issued = self._authority.issue(ADDRESS)
        self._versions += 1
        version = self._directory / f"version-{self._versions}"
        version.mkdir()
        files = {"certificate": version / "tls.crt", "key": version / "tls.key", "authority": version / "ca.crt"}
        for name, path in files.items():
            shutil.copy(getattr(key_of if key_of and name == "key" else issued, name), path)
        draft = self._directory / "..draft"
        draft.symlink_to(version.name)
        draft.replace(self._directory / "..data")
        return Issued(**files)


class TlsService(LiveService):
    """A service with a certificate for its address."""

    def __init__(self, directory: Path, valkey: ValkeyServer, s3: RcloneS3) -> None:
        self.secret = MountedSecret(directory / "tls")
        settings = {"MIRROR_TLS_CERTIFICATE": str(self.secret.certificate), "MIRROR_TLS_KEY": str(self.secret.key)}
        super().__init__(directory, valkey, s3, "live", **settings)

    @property
    def url(self) -> str:
        return f"https://{self.host}"

    def answers(self) -> bool:
        with self.client() as client:
            try:
                return client.request("GET", f"{self.url}/v1/jobs", headers=self.headers).status in (200, 503)
            except urllib3.exceptions.HTTPError:
                return False

    def client(self) -> urllib3.PoolManager:
        return urllib3.PoolManager(ca_certs=str(self.secret.authority), retries=False, timeout=WITHIN)

    def connect(self, beginning: bytes = b"", *, window: int | None = None) -> ssl.SSLSocket:
        """Return a connection whose end is only clean if the service says so (close_notify)."""
        plain = self.connect_plain(window=window)
        context = ssl.create_default_context(cafile=str(self.secret.authority))
        client = context.wrap_socket(plain, server_hostname=ADDRESS, suppress_ragged_eofs=False)
        client.sendall(beginning)
        return client

    def connect_plain(self, beginning: bytes = b"", *, window: int | None = None) -> socket.socket:
        client = socket.socket()
        if window:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window)
        client.settimeout(WITHIN)
        client.connect((ADDRESS, self.port))
        client.sendall(beginning)
        return client

    def served_certificate(self) -> str:
        with self.connect() as client:
            return ssl.DER_cert_to_PEM_cert(client.getpeercert(binary_form=True) or b"")

    def serves(self, issued: Issued) -> bool:
        """Whether both processes serve the certificate. Each accepts some of so many connections."""
        return {self.served_certificate() for _ in range(10 * PROCESSES)} == {issued.certificate.read_text()}

    def troubles(self) -> list[str]:
        return [line["event"] for line in self.lines() if line["level"] in ("warning", "error", "critical")]

    def events(self, beginning: str) -> list[str]:
        return [line["event"] for line in self.lines() if line["event"].startswith(beginning)]


class ImpatientTlsService(TlsService, ImpatientService):
    """With deadlines that a test can wait for."""


@pytest.fixture(scope="module")
def shared_tls(
    valkey: ValkeyServer, rclone_s3: RcloneS3, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[TlsService]:
    with TlsService(tmp_path_factory.mktemp("tls"), valkey, rclone_s3) as service:
        yield service


@pytest.fixture(scope="module")
def shared_impatient(
    valkey: ValkeyServer, rclone_s3: RcloneS3, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[TlsService]:
    with ImpatientTlsService(tmp_path_factory.mktemp("impatient"), valkey, rclone_s3) as service:
        yield service


@pytest.fixture
def tls(shared_tls: TlsService) -> TlsService:
    """A service that all tests share, so its certificate stays. Give every test repositories of its own."""
    shared_tls.begin_test()
    return shared_tls


@pytest.fixture
def impatient(shared_impatient: TlsService) -> TlsService:
    """A service with short deadlines, which all tests share."""
    shared_impatient.begin_test()
    return shared_impatient


@pytest.fixture
def own_tls(valkey: ValkeyServer, rclone_s3: RcloneS3, tmp_path: Path) -> Iterator[TlsService]:
    """A service whose certificate a test may replace, and which it may end."""
    with TlsService(tmp_path, valkey, rclone_s3) as service:
        yield service


def get(path: str, *, close: bool = False) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: x\r\n{'Connection: close' if close else 'X-A: b'}\r\n\r\n".encode()


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


def test_a_replaced_certificate_is_served_while_open_connections_go_on(own_tls: TlsService) -> None:
    with own_tls.connect() as before:
        old = own_tls.served_certificate()
        new = own_tls.secret.replace()
        until(lambda: own_tls.serves(new))
        assert new.certificate.read_text() != old
        before.sendall(get("/livez", close=True))
        answer = http.client.HTTPResponse(before)
        answer.begin()
        assert answer.status == 200
    assert (
        own_tls.events("the TLS certificate was loaded again") == ["the TLS certificate was loaded again"] * PROCESSES
    )
    assert own_tls.troubles() == []


def test_a_certificate_whose_key_is_another_one_is_never_served(own_tls: TlsService) -> None:
    good = own_tls.secret.replace()
    until(lambda: own_tls.serves(good))
    own_tls.secret.replace(key_of=good)
    until(lambda: len(own_tls.troubles()) == PROCESSES)
    assert own_tls.serves(good)
    own_tls.secret.certificate.unlink()  # as while a file is replaced in two steps
    until(lambda: len(own_tls.troubles()) == 2 * PROCESSES)
    assert own_tls.serves(good)
    own_tls.secret.certificate.symlink_to(Path("..data") / "tls.crt")
    newest = own_tls.secret.replace()
    until(lambda: own_tls.serves(newest))
    assert set(own_tls.troubles()) == {"the new TLS certificate cannot be used; the old one stays"}
    assert len(own_tls.troubles()) == 2 * PROCESSES, "each problem is logged once by each process"
    [reason] = {line["reason"] for line in own_tls.lines() if "is not the key" in line.get("reason", "")}
    assert reason == "MIRROR_TLS_KEY is not the key of the first certificate in MIRROR_TLS_CERTIFICATE"


def test_a_process_that_starts_later_serves_the_certificate_of_now(own_tls: TlsService) -> None:
    """It is forked from a process that loaded the first certificate."""
    new = own_tls.secret.replace()
    until(lambda: own_tls.serves(new))
    for child in Path(f"/proc/{own_tls.pid}/task/{own_tls.pid}/children").read_text().split():
        subprocess.run(["kill", "-KILL", child], check=True)
    until(lambda: len(own_tls.events("Booting worker")) == 2 * PROCESSES)
    until(lambda: own_tls.serves(new))


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


def test_a_thousand_clients_that_never_shake_hands_cost_little_and_stop_nobody(own_tls: TlsService) -> None:
    with own_tls.client() as client:
        assert client.request("GET", f"{own_tls.url}/livez").status == 200
        before = resident(own_tls)
        with Crowd("silent", own_tls.port, SILENT) as crowd:
            for _ in range(20):
                assert client.request("GET", f"{own_tls.url}/livez", headers={"Connection": "close"}).status == 200
            assert crowd.alive == SILENT
            assert resident(own_tls) - before < SILENT * _BYTES_OF_A_SILENT_CLIENT
            assert threads_of(own_tls) < SILENT / 10


def threads_of(service: LiveService) -> int:
    children = Path(f"/proc/{service.pid}/task/{service.pid}/children").read_text().split()
    statuses = [Path(f"/proc/{child}/status").read_text() for child in children]
    return sum(int(found[1]) for status in statuses if (found := re.search(r"^Threads:\t(\d+)$", status, re.MULTILINE)))


@pytest.mark.parametrize("beginning", [b"", b"\x16", b"\x16\x03\x01\x02\x00\x01"], ids=["nothing", "a byte", "a part"])
def test_the_handshake_has_a_deadline_also_when_a_byte_comes_now_and_then(
    impatient: TlsService, beginning: bytes
) -> None:
    with impatient.connect_plain(beginning) as client:
        client.settimeout(0.2)
        deadline = time.monotonic() + WITHIN
        while time.monotonic() < deadline:
            try:
                if not client.recv(1024):
                    return
            except TimeoutError:
                if beginning:
                    client.sendall(b"\x00")
            except (ConnectionResetError, BrokenPipeError):
                return
    pytest.fail("the connection stays")


def test_a_body_has_a_deadline_also_when_one_record_drips(impatient: TlsService) -> None:
    """A wait for the rest of a record must not begin again with each of its bytes."""
    head = (
        f"POST /v1/jobs HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {impatient.token}\r\nContent-Length: 9000\r\n\r\n"
    )
    to_us, from_us = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = ssl.create_default_context(cafile=str(impatient.secret.authority))
    tls = context.wrap_bio(to_us, from_us, server_hostname=ADDRESS)
    with impatient.connect_plain() as client:
        while True:
            try:
                tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                client.sendall(from_us.read())
                to_us.write(client.recv(65536))
        tls.write(head.encode())
        client.sendall(from_us.read())
        tls.write(b"x" * 9000)
        client.settimeout(0.2)
        answer = b""
        for byte in from_us.read():
            client.sendall(bytes([byte]))
            try:
                to_us.write(client.recv(65536))
                answer = tls.read()
                break
            except (TimeoutError, ssl.SSLWantReadError):
                continue
    assert answer.startswith(b"HTTP/1.1 408")


def test_a_client_that_takes_nothing_is_dropped(impatient: TlsService, live_mirror: SeededCatalog) -> None:
    path = f"/v2/live/none/blobs/{live_mirror.link_blob('live/none', LARGE)}"
    with impatient.connect(get(path), window=4096):
        line = impatient.logged(path=path)
    assert 0 < line["bytes"] < len(LARGE)
    assert impatient.troubles() == []


def test_a_client_that_takes_a_little_at_a_time_is_not(impatient: TlsService, live_mirror: SeededCatalog) -> None:
    """Three times as long as a client may take nothing, and every byte arrives."""
    content = LARGE[: 8 * MIB]
    path = f"/v2/live/little/blobs/{live_mirror.link_blob('live/little', content)}"
    with impatient.connect(get(path), window=4096) as client:
        answer = http.client.HTTPResponse(client)
        answer.begin()
        received, until_then = answer.read(4096), time.monotonic() + 3 * SECONDS
        while time.monotonic() < until_then:
            received += answer.read(4096)
            time.sleep(0.2)  # it is slow
        received += answer.read()
    assert received == content


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


@pytest.fixture
def issued(tmp_path: Path) -> Issued:
    return Authority(tmp_path).issue(ADDRESS)


def refusal(certificate: Path, key: Path) -> dict[str, str]:
    with pytest.raises(InvalidSettings) as refused:
        load_context(certificate, key)
    return {name: text for name, [text] in refused.value.problems.items()}


def test_a_pair_that_cannot_be_used_is_refused_by_the_name_of_its_setting(issued: Issued, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = Authority(tmp_path / "other").issue(ADDRESS)
    damaged = tmp_path / "damaged.pem"
    damaged.write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    missing = tmp_path / "missing"
    mismatch = "is not the key of the first certificate in MIRROR_TLS_CERTIFICATE"
    assert refusal(issued.certificate, other.key) == {"MIRROR_TLS_KEY": mismatch}
    assert refusal(missing, issued.key) == {"MIRROR_TLS_CERTIFICATE": "cannot be read: No such file or directory"}
    assert refusal(issued.certificate, missing) == {"MIRROR_TLS_KEY": "cannot be read: No such file or directory"}
    assert refusal(tmp_path, issued.key) == {"MIRROR_TLS_CERTIFICATE": "cannot be read: Is a directory"}
    swapped = {"MIRROR_TLS_CERTIFICATE": "does not name a PEM file with a certificate"}
    assert refusal(issued.key, issued.certificate) == swapped
    no_key = {"MIRROR_TLS_KEY": "does not name a PEM file with a private key"}
    assert refusal(issued.certificate, issued.certificate) == no_key
    [(name, text)] = refusal(damaged, issued.key).items()
    assert (name, text[:37]) == ("MIRROR_TLS_CERTIFICATE", "cannot be used with MIRROR_TLS_KEY: O")


def test_a_key_with_a_password_is_refused_and_nobody_is_asked(issued: Issued) -> None:
    key = serialization.load_pem_private_key(issued.key.read_bytes(), None)
    encryption = serialization.BestAvailableEncryption(b"password")
    issued.key.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption))
    text = "is encrypted, and the service cannot ask for a password"
    assert refusal(issued.certificate, issued.key) == {"MIRROR_TLS_KEY": text}


def test_a_chain_and_its_key_may_be_in_one_file(issued: Issued) -> None:
    issued.certificate.write_bytes(
        issued.certificate.read_bytes() + issued.authority.read_bytes() + issued.key.read_bytes()
    )
    assert load_context(issued.certificate, issued.certificate).minimum_version is ssl.TLSVersion.TLSv1_2


def test_files_that_have_not_changed_are_not_loaded_again(issued: Issued) -> None:
    certificate = ServerCertificate(issued.certificate, issued.key)
    first = certificate.context
    certificate.reload_if_changed()
    assert certificate.context is first


@pytest.mark.parametrize("wrong", ["key of another", "missing key file", "only the certificate", "content as path"])
def test_the_service_does_not_start_without_a_pair_and_says_what_is_wrong(
    issued: Issued, tmp_path: Path, wrong: str
) -> None:
    (tmp_path / "other").mkdir()
    key = {
        "key of another": str(Authority(tmp_path / "other").issue(ADDRESS).key),
        "missing key file": str(tmp_path / "missing"),
        "only the certificate": "",
        "content as path": issued.key.read_text(),
    }[wrong]
    said = {
        "key of another": "is not the key of the first certificate in MIRROR_TLS_CERTIFICATE",
        "missing key file": "cannot be read: No such file or directory",
        "only the certificate": "must be set when MIRROR_TLS_CERTIFICATE is",
        "content as path": "must be the path of a PEM file, not its content",
    }[wrong]
    variables = {"MIRROR_TLS_CERTIFICATE": str(issued.certificate), "MIRROR_TLS_KEY": key}
    done = refused_start(tmp_path, variables)
    assert done.returncode == 2
    assert f"  MIRROR_TLS_KEY: {said}" in done.stderr.splitlines()
    assert "PRIVATE" not in done.stderr


def refused_start(directory: Path, variables: dict[str, str]) -> subprocess.CompletedProcess[str]:
    stores = {"MIRROR_REDIS_URL": "redis://127.0.0.1:1/0", "MIRROR_S3_BUCKET": "images"}
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(Path.cwd()), "MIRROR_DATA_DIR": str(directory)}
    command = [sys.executable, "-m", "service"]
    return subprocess.run(
        command, env={**environment, **stores, **variables}, capture_output=True, text=True, timeout=60, check=False
    )
