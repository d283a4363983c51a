"""Settings that are loaded from variables, and keys in the forms that OpenSSL writes."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from mirror.settings import InvalidSettings, Settings
from tests.support.servers.process import REPOSITORY

PAGE = REPOSITORY / "docs" / "reference" / "settings.md"
TOKEN = "a-token-of-some-length"
P256 = ec.generate_private_key(ec.SECP256R1())
COSIGN_KEY = "-----BEGIN ENCRYPTED SIGSTORE PRIVATE KEY-----\neyJrZGYi\n-----END ENCRYPTED SIGSTORE PRIVATE KEY-----\n"


def pem(
    key: ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey,
    form: PrivateFormat = PrivateFormat.PKCS8,
    *,
    password: bytes | None = None,
) -> str:
    encryption = BestAvailableEncryption(password) if password else NoEncryption()
    return key.private_bytes(Encoding.PEM, form, encryption).decode()


def public_pem(key: ec.EllipticCurvePrivateKey) -> str:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def load(monkeypatch: pytest.MonkeyPatch, **variables: str) -> Settings:
    for name, value in variables.items():
        monkeypatch.setenv(f"MIRROR_{name}", value)
    return Settings.load()


def problems(monkeypatch: pytest.MonkeyPatch, **variables: str) -> Mapping[str, list[str]]:
    with pytest.raises(InvalidSettings) as refused:
        load(monkeypatch, **variables)
    return refused.value.problems
