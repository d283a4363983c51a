"""Redirects of known blobs, which do not reach Flask, and are the same as those that do."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from mirror.oci.digest import Digest
from mirror.settings import Settings
from service.app import create_app
from service.core import Service
from service.http.auth import RequestAuthenticator
from service.v2.redirects import KnownRedirects
from tests.api.conftest import TOKEN
from tests.api.seeded_catalog import SeededCatalog
from tests.support import images

PULL_TOKEN = "p" * 32
SHORT_PULL_TOKEN = "q" * 16


@pytest.fixture
def api_settings(api_settings: Settings) -> Settings:
    return replace(api_settings, serve_redirect="true", pull_token=(PULL_TOKEN, SHORT_PULL_TOKEN))


@pytest.fixture
def blob(mirror: SeededCatalog) -> Digest:
    held = images.image(images.layer("a"))
    mirror.hold(held, "docker.io/library/redis:7")
    return next(iter(held.blobs))


@pytest.fixture
def reached_flask(app: Flask) -> list[str]:
    """The paths that Flask has seen."""
    seen: list[str] = []
    redirects: Any = app.wsgi_app
    assert isinstance(redirects, KnownRedirects)
    inner = redirects._application

    def noting(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        seen.append(environ["PATH_INFO"])
        return inner(environ, start_response)

    redirects._application = noting
    return seen


def shown(response: TestResponse) -> tuple[int, bytes, dict[str, str]]:
    return response.status_code, response.data, dict(response.headers)


def test_a_known_blob_is_redirected_as_flask_redirects_it(
    anyone: FlaskClient, blob: Digest, reached_flask: list[str]
) -> None:
    path, headers = f"/v2/docker.io/library/redis/blobs/{blob}", {"X-Request-Id": "mine"}
    first, again = (anyone.get(path, headers=headers) for _ in range(2))
    assert reached_flask == [path]
    assert shown(again) == shown(first)
    assert (again.status, again.headers["X-Request-Id"]) == (first.status, "mine")
    short = anyone.get(f"/v2/library/redis/blobs/{blob}", headers=headers)
    assert shown(short) == shown(first)
    assert reached_flask == [path]


def test_every_other_request_reaches_flask(anyone: FlaskClient, blob: Digest, reached_flask: list[str]) -> None:
    path = f"/v2/docker.io/library/redis/blobs/{blob}"
    assert anyone.get(path).status_code == 307
    expected = {
        "HEAD": (anyone.head(path), 200),
        "If-None-Match": (anyone.get(path, headers={"If-None-Match": f'"{blob}"'}), 304),
        "namespace": (anyone.get(f"/v2/library/redis/blobs/{blob}?ns=docker.io"), 307),
        "another registry": (anyone.get(f"/v2/library/redis/blobs/{blob}?ns=quay.io"), 404),
        "another repository": (anyone.get(f"/v2/team/app/blobs/{blob}"), 404),
        "another blob": (anyone.get(f"/v2/docker.io/library/redis/blobs/{Digest.of(b'absent')}"), 404),
        "malformed digest": (anyone.get("/v2/docker.io/library/redis/blobs/sha256:x"), 400),
        "malformed name": (anyone.get(f"/v2/Docker/blobs/{blob}"), 404),
        "manifest": (anyone.get("/v2/docker.io/library/redis/manifests/7"), 200),
        "another path": (anyone.get("/livez"), 200),
        "a write": (anyone.delete(path), 405),
    }
    assert {name: response.status_code for name, (response, _) in expected.items()} == {
        name: status for name, (_, status) in expected.items()
    }
    assert len(reached_flask) == 1 + len(expected)


@pytest.fixture
def closed(service: Service) -> FlaskClient:
    """A client of a mirror whose pulls need a token."""
    settings = replace(service.core.settings, anonymous_pull=False)
    return create_app(replace(service, auth=RequestAuthenticator(settings, TOKEN))).test_client()


@pytest.mark.parametrize("token", [TOKEN, PULL_TOKEN, SHORT_PULL_TOKEN], ids=["admin", "pull", "short"])
def test_a_right_token_is_redirected(closed: FlaskClient, blob: Digest, token: str) -> None:
    path = f"/v2/docker.io/library/redis/blobs/{blob}"
    basic = b64encode(f"any:{token}".encode()).decode()
    answers = [closed.get(path, headers={"Authorization": sent}) for sent in 2 * (f"Bearer {token}", f"Basic {basic}")]
    assert [response.status_code for response in answers] == [307] * 4
    assert len({response.headers["Location"] for response in answers}) == 1


@pytest.mark.parametrize("header", ["", "Bearer wrong", "Basic !!", "Basic d3Jvbmc=", f"Digest {PULL_TOKEN}"])
def test_any_other_is_refused_however_well_the_blob_is_known(closed: FlaskClient, blob: Digest, header: str) -> None:
    path = f"/v2/docker.io/library/redis/blobs/{blob}"
    for _ in range(2):
        assert closed.get(path, headers={"Authorization": f"Bearer {PULL_TOKEN}"}).status_code == 307
    response = closed.get(path, headers={"Authorization": header} if header else {})
    assert (response.status_code, response.headers.get("Location")) == (401, None)
    assert response.headers["WWW-Authenticate"].startswith("Basic")
