from __future__ import annotations

import base64

import pytest
from flask.testing import FlaskClient

from mirror.settings import token_problem
from service.app import create_app
from service.core import Service
from tests.api.conftest import TOKEN, with_settings

PULL_TOKENS = ("token-of-cluster-1-0123456789abcdef", "token-of-cluster-2-0123456789abcdef")


@pytest.fixture
def closed(service: Service) -> FlaskClient:
    """An API whose pulls need a token."""
    return create_app(with_settings(service, anonymous_pull=False, pull_token=PULL_TOKENS)).test_client()


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
def test_closed_pulls_ask_for_a_login_with_a_pull_token(closed: FlaskClient, path: str) -> None:
    response = closed.get(path)
    assert response.status_code == 401
    assert response.headers["WWW-Authenticate"] == 'Basic realm="mirror.example:8443"'
    assert response.headers["Docker-Distribution-Api-Version"] == "registry/2.0"
    [error] = response.get_json()["errors"]
    assert error["code"] == "UNAUTHORIZED"
    assert "admin" not in response.get_data(as_text=True), "nobody tells a node to send the admin token"
    assert "pull token" in error["message"]
    assert "MIRROR_PULL_TOKEN" in error["detail"]["hint"]


@pytest.mark.parametrize("token", PULL_TOKENS)
@pytest.mark.parametrize(
    ("path", "status"), [("/v2/", 200), ("/v2/_catalog", 200), ("/v2/a/tags/list", 404), ("/v2/a/manifests/1", 404)]
)
def test_every_pull_token_reads_v2(closed: FlaskClient, token: str, path: str, status: int) -> None:
    for authorization in (f"Bearer {token}", basic("any user", token), basic("", token)):
        for method in ("GET", "HEAD"):
            response = closed.open(path, method=method, headers={"Authorization": authorization})
            assert response.status_code == status


def test_what_is_nearly_a_pull_token_reads_nothing(closed: FlaskClient) -> None:
    for wrong in (PULL_TOKENS[0][:-1], f"{PULL_TOKENS[0]}x", ",".join(PULL_TOKENS), ""):
        for authorization in (f"Bearer {wrong}", basic("any user", wrong), basic(PULL_TOKENS[0], wrong)):
            assert closed.get("/v2/", headers={"Authorization": authorization}).status_code == 401


CLOSED_TO_NODES = [
    ("GET", "/v1/jobs"),
    ("POST", "/v1/jobs"),
    ("GET", "/v1/repositories"),
    ("PUT", "/v1/images/a:1"),
    ("DELETE", "/v1/images/a:1"),
    ("DELETE", "/v1/jobs/job_01M8HGVX6E5MZNGAAZK6G1340B"),
    ("GET", "/v1/nothing"),
]


@pytest.mark.parametrize(("method", "path"), CLOSED_TO_NODES)
def test_a_pull_token_opens_nothing_else_and_the_answer_says_so(closed: FlaskClient, method: str, path: str) -> None:
    response = closed.open(path, method=method, headers={"Authorization": f"Bearer {PULL_TOKENS[0]}"})
    assert response.status_code == 403
    assert response.headers["WWW-Authenticate"] == 'Bearer realm="image-mirror", error="insufficient_scope"'
    problem = response.get_json()
    assert problem["code"] == "DENIED"
    assert "may only pull" in problem["detail"]


def test_a_pull_token_opens_no_path_of_the_service_that_is_closed(service: Service) -> None:
    """Paths such as ``/metrics`` of a later version: what is not listed as open needs the admin token."""
    closed = create_app(with_settings(service, anonymous_pull=True, pull_token=PULL_TOKENS))
    closed.add_url_rule("/later", view_func=lambda: "secret")
    client = closed.test_client()
    assert client.get("/later", headers={"Authorization": f"Bearer {PULL_TOKENS[0]}"}).status_code == 403
    assert client.get("/later", headers={"Authorization": f"Bearer {TOKEN}"}).status_code == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
@pytest.mark.parametrize("path", ["/v2/a/blobs/uploads/", "/v2/a/manifests/1", "/v2/"])
def test_a_push_with_a_pull_token_is_refused_with_the_reason(closed: FlaskClient, method: str, path: str) -> None:
    response = closed.open(path, method=method, headers={"Authorization": basic("node", PULL_TOKENS[0])})
    assert response.status_code == 405
    assert response.get_json()["errors"][0]["code"] == "UNSUPPORTED"


def test_a_route_that_writes_under_v2_would_not_be_open_to_nodes(service: Service) -> None:
    later = create_app(with_settings(service, anonymous_pull=False, pull_token=PULL_TOKENS))
    later.add_url_rule("/v2/a/write", view_func=lambda: "written", methods=["GET", "PUT"])
    client = later.test_client()
    node, admin = ({"Authorization": f"Bearer {token}"} for token in (PULL_TOKENS[1], TOKEN))
    assert [client.get("/v2/a/write", headers=node).status_code, client.put("/v2/a/write").status_code] == [200, 401]
    refused = client.put("/v2/a/write", headers=node)
    assert (refused.status_code, refused.get_json()["errors"][0]["code"]) == (403, "DENIED")
    assert client.put("/v2/a/write", headers=admin).status_code == 200


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


def test_the_tokens_are_not_in_what_is_printed_of_the_service(service: Service) -> None:
    shown = repr(with_settings(service, pull_token=PULL_TOKENS))
    assert not [token for token in (TOKEN, *PULL_TOKENS) if token in shown]


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
