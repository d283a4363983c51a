"""Keys are read as OpenSSL writes them, and no problem repeats a secret."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import NoneType

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import PrivateFormat
from hypothesis import given
from hypothesis import strategies as st

from mirror.settings import InvalidSettings, Settings
from tests.unit.settings.loading import P256, load, pem, problems


def refusal_of(parse: Callable[[str], object], text: str) -> ValueError | None:
    try:
        parse(text)
    except ValueError as refused:
        return refused
    return None


KEY_FORMS = pytest.mark.parametrize(
    ("key", "form"),
    [
        (P256, PrivateFormat.PKCS8),
        (P256, PrivateFormat.TraditionalOpenSSL),
        (ed25519.Ed25519PrivateKey.generate(), PrivateFormat.PKCS8),
    ],
    ids=["P-256", "P-256 of openssl ecparam", "Ed25519"],
)


@KEY_FORMS
def test_a_key_is_read_as_openssl_writes_it(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    key: ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey,
    form: PrivateFormat,
) -> None:
    file = tmp_path / "key.pem"
    file.write_text(pem(key, form))
    loaded = load(monkeypatch, ATTESTATION_KEY_FILE=str(file), PUBLIC_URL="https://mirror.corp")
    assert loaded.attestation_key
    assert loaded.attestation_key.public_key() == key.public_key()


def test_a_key_needs_the_public_url_because_the_statement_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    missing = ["must be set when MIRROR_ATTESTATION_KEY is"]
    assert problems(monkeypatch, ATTESTATION_KEY=pem(P256)) == {"MIRROR_PUBLIC_URL": missing}
    wrong = problems(monkeypatch, ATTESTATION_KEY=pem(P256), PUBLIC_URL="mirror.corp", PORT="0")
    assert wrong.keys() == {"MIRROR_PUBLIC_URL", "MIRROR_PORT"}
    assert wrong["MIRROR_PUBLIC_URL"] != missing


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ADMIN_TOKEN", "p4ssw0rd"),
        ("ADMIN_TOKEN", "p4ssw0rd with a blank"),
        ("PULL_TOKEN", "token-of-cluster-1,p4ssw0rd"),
        ("REDIS_URL", "tcp://:p4ssw0rd@redis"),
        ("REDIS_URL", "redis://:p4ssw0rd@[redis"),
        ("S3_ENDPOINT", "https://user:p4ssw0rd@s3.corp"),
        ("PUBLIC_URL", "https://user:p4ssw0rd@mirror.corp"),
        ("INSECURE_REGISTRIES", "user:p4ssw0rd@x.com"),
        ("REGISTRY_ENDPOINTS", "https://user:p4ssw0rd@proxy.corp"),
        ("REGISTRY_ENDPOINTS", "docker.io=https://user:p4ssw0rd@proxy.corp"),
        ("REGISTRY_ENDPOINTS", "https://user:p4ssw0rd=@proxy.corp"),
        ("TOKEN_REALMS", "harbor.corp=user:p4ssw0rd@sso"),
        ("ALLOWED_NETWORKS", "p4ssw0rd"),
        ("ATTESTATION_KEY", "-----BEGIN PRIVATE KEY-----\np4ssw0rd\n-----END PRIVATE KEY-----"),
        ("ATTESTATION_KEY", "-----BEGIN ENCRYPTED PRIVATE KEY-----\np4ssw0rd"),
        ("ATTESTATION_VERIFIER", "https://user:p4ssw0rd@mirror.corp/#"),
    ],
)
def test_a_problem_never_repeats_the_value(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    with pytest.raises(InvalidSettings) as refused:
        load(monkeypatch, **{name: value})
    assert "p4ssw0rd" not in f"{refused.value!r} {refused.value} {refused.value.problems}"


@pytest.mark.parametrize("name", Settings.declared())
@given(text=st.text(max_size=40), before=st.sampled_from(["", "https://", "docker.io=", "10.0.0.0/8,"]))
def test_any_text_is_parsed_or_is_refused_without_repeating_it(name: str, text: str, before: str) -> None:
    """Not even the error of a library may reach the list of problems: it could repeat a part of the text."""
    refused = refusal_of(Settings.declared()[name].parse, f"{before}p4ssw0rd{text}")
    assert type(refused) in (ValueError, NoneType)
    assert "p4ssw0rd" not in str(refused)
    assert str(refused).isprintable()


def test_no_secret_shows_in_the_repr() -> None:
    redis_url, token = "redis://:p4ssw0rd@redis", "p4ssw0rd-p4ssw0rd"
    shown = repr(Settings(admin_token=token, pull_token=("p4ssw0rd-of-nodes",), redis_url=redis_url))
    assert "p4ssw0rd" not in shown
    assert "8080" in shown
    assert "Key" not in repr(Settings(attestation_key=P256))
