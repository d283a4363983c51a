from __future__ import annotations

import base64

import pytest
from flask.testing import FlaskClient

from mirror.settings import token_problem
from service.app import create_app
from service.core import Service
from tests.api.conftest import TOKEN, with_settings


@pytest.fixture
def closed(service: Service) -> FlaskClient:
    """An API whose pulls need the token."""
    return create_app(with_settings(service, anonymous_pull=False)).test_client()


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


WRONG = [
    "",
    "Bearer",
    "Bearer ",
    f"Bearer {TOKEN}x",
    f"Bearer {TOKEN[:-1]}",
    f"Token {TOKEN}",
    TOKEN,
    basic("admin", TOKEN),
    "Basic !!!",
    "Bearer \xff\xfe",
]


@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/images/a:1", "/v1/nothing"])
def test_v1_needs_the_token_as_bearer(anyone: FlaskClient, path: str) -> None:
    for headers in ({}, *({"Authorization": wrong} for wrong in WRONG)):
        response = anyone.get(path, headers=headers)
        assert response.status_code == 401, headers
        assert response.headers["WWW-Authenticate"] == 'Bearer realm="image-mirror"'
        assert response.get_json()["code"] == "UNAUTHORIZED"


@pytest.mark.parametrize("scheme", ["Bearer", "bearer"])
def test_the_token_opens_v1(anyone: FlaskClient, scheme: str) -> None:
    assert anyone.get("/v1/jobs", headers={"Authorization": f"{scheme} {TOKEN}"}).status_code == 200


@pytest.mark.parametrize(
    "path",
    ["/livez", "/readyz", "/version", "/openapi.json", "/docs", "/docs/errors", "/docs/assets/docs.js", "/", "/v2/"],
)
def test_what_tells_nothing_of_the_images_is_open(anyone: FlaskClient, path: str) -> None:
    assert anyone.get(path, buffered=True).status_code in (200, 302)


@pytest.mark.parametrize("path", ["/v2/", "/v2/_catalog", "/v2/a/manifests/1", "/v2/nothing"])
def test_closed_pulls_ask_for_a_login(closed: FlaskClient, path: str) -> None:
    response = closed.get(path)
    assert response.status_code == 401
    assert response.headers["WWW-Authenticate"] == 'Basic realm="mirror.example:8443"'
    assert response.headers["Docker-Distribution-Api-Version"] == "registry/2.0"
    assert response.get_json()["errors"][0]["code"] == "UNAUTHORIZED"


@pytest.mark.parametrize(
    ("authorization", "status"),
    [
        (basic("anybody", TOKEN), 200),
        (basic("", TOKEN), 200),
        (f"Bearer {TOKEN}", 200),
        (basic("anybody", "wrong"), 401),
        (basic(TOKEN, ""), 401),
        ("Bearer wrong", 401),
    ],
    ids=["user and token", "token", "bearer", "wrong password", "token as user", "wrong bearer"],
)
def test_closed_pulls_take_the_token_as_docker_login_sends_it(
    closed: FlaskClient, authorization: str, status: int
) -> None:
    assert closed.get("/v2/", headers={"Authorization": authorization}).status_code == status


def test_the_token_is_not_in_what_is_printed_of_the_service(service: Service) -> None:
    assert TOKEN not in repr(service)


ODD_TOKENS = [
    "a=b=c0123456789x",
    "==leading-0123456",
    "trailing-012345==",
    'quote"d,comma;012',
    "colon:0123456:789",
    "realm=x,y=zzzzzzz",
    "Bearer%20&?#/\\+~|",
]


@pytest.mark.parametrize("token", ODD_TOKENS)
def test_every_token_that_is_accepted_at_start_opens_the_api_and_pulls(service: Service, token: str) -> None:
    assert token_problem(token) is None
    client = create_app(with_settings(service, anonymous_pull=False, admin_token=token)).test_client()
    assert client.get("/v1/jobs", headers={"Authorization": f"Bearer {token}"}).status_code == 200
    for authorization in (f"Bearer {token}", basic("anybody", token)):
        assert client.get("/v2/", headers={"Authorization": authorization}).status_code == 200
    assert client.get("/v1/jobs", headers={"Authorization": f"Bearer {token}="}).status_code == 401
