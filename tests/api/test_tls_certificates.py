"""A certificate is replaced while the service runs. A wrong pair is refused."""

from __future__ import annotations

import http.client
import os
import ssl
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from mirror.settings import InvalidSettings
from service.http.tls import ServerCertificate, load_context
from tests.api.test_slow_clients import until
from tests.api.tls_service import ADDRESS, PROCESSES, TlsService, get
from tests.support.fakes.certificates import Authority, Issued


@pytest.fixture
def issued(tmp_path: Path) -> Issued:
    return Authority(tmp_path).issue(ADDRESS)


def refusal(certificate: Path, key: Path) -> dict[str, str]:
    with pytest.raises(InvalidSettings) as refused:
        load_context(certificate, key)
    return {name: text for name, [text] in refused.value.problems.items()}


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
