"""The errors for what OpenSSL reports."""

from __future__ import annotations

import ssl

import pytest
from urllib3.exceptions import SSLError

from mirror.errors import MirrorError, PlainHttpNotAllowed, SourceUnreachable
from mirror.http.failures import translation


def failure(reason: str, server: str, url: str) -> MirrorError:
    """Return the error for OpenSSL's *reason*."""
    cause = ssl.SSLError(1, f"[SSL: {reason}]")
    cause.reason = reason
    return translation(SSLError(cause), server, "the request", url)


@pytest.mark.parametrize(
    "reason", ["WRONG_VERSION_NUMBER", "PACKET_LENGTH_TOO_LONG", "RECORD_LAYER_FAILURE", "UNKNOWN_PROTOCOL"]
)
@pytest.mark.parametrize(
    ("registry", "url", "advice"),
    [
        (
            "harbor.corp",
            "https://harbor.corp/v2/?secret",
            "add 'harbor.corp' to MIRROR_INSECURE_REGISTRIES, which asks",
        ),
        ("harbor.corp:8443", "https://harbor.corp:8443/v2/", "add 'harbor.corp:8443' to MIRROR_INSECURE_REGISTRIES."),
        ("docker.io", "https://proxy.corp:5000/v2/", "write http:// for it in MIRROR_REGISTRY_ENDPOINTS"),
        ("docker.io", "https://[fd00::1]:5000/v2/", "add '[fd00::1]:5000' to MIRROR_INSECURE_REGISTRIES"),
    ],
)
def test_every_version_of_openssl_leads_to_the_same_advice(reason: str, registry: str, url: str, advice: str) -> None:
    error = failure(reason, registry, url)
    assert isinstance(error, PlainHttpNotAllowed)
    assert advice in error.hint
    assert "secret" not in error.message + error.hint


def test_another_tls_failure_is_named() -> None:
    error = failure("TLSV1_ALERT_PROTOCOL_VERSION", "harbor.corp", "https://harbor.corp/v2/")
    assert isinstance(error, SourceUnreachable)
    assert "TLS failed (tlsv1 alert protocol version)" in error.message
