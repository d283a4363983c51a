"""What the service needs to be reached: its public URL, TLS, tokens, and where blobs are redirected."""

from __future__ import annotations

import pytest

from mirror.settings import InvalidSettings
from tests.unit.settings.loading import TOKEN, load, problems


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.0.1", "localhost", "::1"])
def test_no_setting_is_needed_on_loopback(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    loaded = load(monkeypatch, HOST=host)
    loaded.require_servable()
    assert loaded.anonymous_pull


def test_the_public_url_follows_host_and_port(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load(monkeypatch, HOST="localhost", PORT="81").public_url == "http://localhost:81"
    assert load(monkeypatch, HOST="::1", PORT="81").public_url == "http://[::1]:81"
    assert load(monkeypatch, PUBLIC_URL="https://mirror.corp:8443/").public_host == "mirror.corp:8443"


def test_with_tls_the_public_url_on_loopback_has_https(monkeypatch: pytest.MonkeyPatch) -> None:
    tls = {"TLS_CERTIFICATE": "/run/tls/tls.crt", "TLS_KEY": "/run/tls/tls.key"}
    assert load(monkeypatch, HOST="::1", PORT="81", **tls).public_url == "https://[::1]:81"
    assert (
        load(monkeypatch, HOST="127.0.0.1", PUBLIC_URL="http://mirror.corp", **tls).public_url == "http://mirror.corp"
    )


@pytest.mark.parametrize(("given", "missing"), [("CERTIFICATE", "KEY"), ("KEY", "CERTIFICATE")])
def test_a_certificate_and_its_key_are_set_together(monkeypatch: pytest.MonkeyPatch, given: str, missing: str) -> None:
    assert problems(monkeypatch, **{f"TLS_{given}": "/run/tls/file"}) == {
        f"MIRROR_TLS_{missing}": [f"must be set when MIRROR_TLS_{given} is"]
    }


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.5", "mirror.corp"])
def test_off_loopback_token_and_public_url_must_be_set(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    loaded = load(monkeypatch, HOST=host)
    assert not loaded.anonymous_pull
    with pytest.raises(InvalidSettings) as refused:
        loaded.require_servable()
    assert refused.value.problems.keys() == {"MIRROR_ADMIN_TOKEN", "MIRROR_PUBLIC_URL"}
    load(monkeypatch, HOST=host, ADMIN_TOKEN=TOKEN, PUBLIC_URL="https://mirror.corp").require_servable()


def test_a_public_url_of_host_and_port_counts_as_set(monkeypatch: pytest.MonkeyPatch) -> None:
    load(monkeypatch, HOST="mirror.corp", ADMIN_TOKEN=TOKEN, PUBLIC_URL="http://mirror.corp:8080").require_servable()


def test_anonymous_pull_off_loopback_must_be_turned_on(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load(monkeypatch, HOST="0.0.0.0", ANONYMOUS_PULL="true").anonymous_pull


@pytest.mark.parametrize(("value", "redirects"), [("auto", True), ("true", True), ("false", False)])
def test_blobs_are_redirected_unless_that_is_turned_off(
    monkeypatch: pytest.MonkeyPatch, value: str, redirects: bool
) -> None:
    assert load(monkeypatch, SERVE_REDIRECT=value).redirects_blobs is redirects


@pytest.mark.parametrize(
    ("mirror", "s3", "bucket", "redirects"),
    [
        ("https://mirror.corp", "https://s3.corp", "images", True),
        ("https://mirror.corp", "https://corp", "images", True),
        ("https://mirror.corp", "https://othermirror.corp", "images", True),
        ("https://mirror.corp", "https://mirror.corp.example", "images", True),
        ("https://mirror.corp", None, "images", True),
        ("http://127.0.0.1:8080", "http://localhost:9000", "images", True),
        ("http://[::1]:8080", "http://[::2]:9000", "images", True),
        ("https://mirror.corp", "https://mirror.corp", "images", False),
        ("https://mirror.corp:8443", "http://mirror.corp:9000", "images", False),
        ("https://mirror.corp", "https://s3.mirror.corp", "images", False),
        ("https://Mirror.corp", "https://S3.MIRROR.corp.", "images", False),
        ("https://mirror.corp.", "https://mirror.corp", "images", False),
        ("http://127.0.0.1:8080", "http://127.0.0.1:9000", "images", False),
        ("http://[::1]:8080", "http://[::1]:9000", "images", False),
        ("https://images.s3.corp", "https://s3.corp", "images", False),
        ("https://images.s3.corp", "https://s3.corp", "others", True),
        ("https://b.s3.corp", "https://s3.corp", "a.b", False),
    ],
)
@pytest.mark.parametrize("variable", ["S3_ENDPOINT", "S3_PUBLIC_ENDPOINT"])
@pytest.mark.parametrize("wanted", ["auto", "true"])
def test_blobs_are_streamed_where_go_would_send_s3_the_token_again(
    monkeypatch: pytest.MonkeyPatch,
    mirror: str,
    s3: str | None,
    bucket: str,
    redirects: bool,
    variable: str,
    wanted: str,
) -> None:
    others = {"S3_ENDPOINT": "http://10.0.0.1:9000"} if variable == "S3_PUBLIC_ENDPOINT" and s3 else {}
    endpoint = {variable: s3} if s3 else {}
    variables = {**others, **endpoint, "PUBLIC_URL": mirror, "S3_BUCKET": bucket, "SERVE_REDIRECT": wanted}
    assert load(monkeypatch, **variables).redirects_blobs is redirects
