"""Names, headers and bodies that mean harm are refused with a clean 4xx, and nothing secret comes back."""

from __future__ import annotations

import pytest
from flask.testing import FlaskClient
from werkzeug.test import EnvironBuilder

from mirror.wiring import Core
from tests.api.conftest import TOKEN

HOSTILE = [
    "..",
    "../../etc/passwd",
    "%2e%2e/%2e%2e/x",
    "a/../b",
    "a//b",
    "/a",
    "a/",
    "%00",
    "a%00b",
    "a%0d%0aSet-Cookie:%20x",
    "%ff%fe",
    "%c3%a9",
    "%e2%80%ae",
    "a" * 5000,
    "a/" * 2000,
    "_layers",
    "a/_manifests/tags",
    "%3Cscript%3E",
    "sha256:" + "0" * 64,
    "a@sha256:../../x",
    "a:" + "t" * 200,
    "*",
    "%25%32%65",
]


@pytest.mark.parametrize(
    "template",
    [
        "/v2/{}/manifests/1",
        "/v2/a/manifests/{}",
        "/v2/a/blobs/{}",
        "/v2/{}/tags/list",
        "/v2/{}",
        "/v1/images/{}",
        "/v1/images/a:{}",
        "/v1/jobs/{}",
        "/v1/schedules/{}",
        "/v1/schedules/{}/runs",
        "/x{}",
        "/docs/assets/{}",
        "/docs/assets/../{}",
    ],
)
def test_a_hostile_name_is_a_clean_4xx(api: FlaskClient, template: str) -> None:
    for name in HOSTILE:
        response = api.get(template.format(name))
        body = response.get_data(as_text=True)
        assert 400 <= response.status_code < 500, name
        assert TOKEN not in body
        assert "\x00" not in body
        assert "Set-Cookie" not in response.headers
        assert response.content_type in ("application/json", "application/problem+json")


def test_a_hostile_name_changes_nothing(api: FlaskClient, core: Core) -> None:
    for name in HOSTILE:
        for response in (
            api.put(f"/v1/images/{name}", json={"from": "a:1"}),
            api.delete(f"/v1/images/{name}"),
            api.put(f"/v1/schedules/{name}", json={"name": name, "cron": "@daily", "job": {"source": "a"}}),
            api.delete(f"/v1/schedules/{name}"),
        ):
            assert 400 <= response.status_code < 500, name
    assert list(core.bucket.keys("")) == []
    assert list(core.schedules.store.outlines()) == []


@pytest.mark.parametrize("query", ["last=%00", "last=%ff", "last=" + "z" * 5000, "n=%00", "last=a:b", "last=~"])
@pytest.mark.parametrize("path", ["/v2/_catalog", "/v2/a/tags/list"])
def test_a_hostile_page_is_no_server_error(api: FlaskClient, path: str, query: str) -> None:
    assert api.get(f"{path}?{query}").status_code < 500


@pytest.mark.parametrize("given", ["a b", "x" * 65, "<script>", "é", ""])
def test_a_request_id_that_is_not_sane_is_replaced(api: FlaskClient, given: str) -> None:
    response = api.get("/livez", headers={"X-Request-Id": given})
    assert response.headers["X-Request-Id"] not in ("", given)


def test_a_sane_request_id_is_echoed_and_stands_in_the_problem(api: FlaskClient) -> None:
    response = api.get("/v1/jobs/none", headers={"X-Request-Id": "trace-1.2_3"})
    assert response.headers["X-Request-Id"] == "trace-1.2_3" == response.get_json()["request_id"]


def test_a_lone_surrogate_in_a_body_is_an_invalid_name(api: FlaskClient) -> None:
    response = api.post("/v1/jobs", data='{"source": "\\ud800/x:1"}')
    assert (response.status_code, response.get_json()["code"]) == (422, "NAME_INVALID")
    response = api.post("/v1/jobs", data='{"source": "redis", "\\udfff": 1}')
    assert (response.status_code, response.get_json()["code"]) == (422, "REQUEST_INVALID")


def test_many_unknown_fields_are_not_all_echoed(api: FlaskClient) -> None:
    response = api.post("/v1/jobs", json={f"x{n}": 1 for n in range(1000)})
    assert len(response.get_json()["errors"]) == 20


@pytest.mark.parametrize(
    ("method", "path", "size"), [("POST", "/v1/jobs", 4 * 2**20), ("PUT", "/v1/images/team/app:1", 64 * 1024)]
)
def test_a_body_without_a_length_is_bounded_too(api: FlaskClient, method: str, path: str, size: int) -> None:
    builder = EnvironBuilder(path=path, method=method, data=b'{"source": "' + b"x" * size + b'"}')
    environ = {**builder.get_environ(), "wsgi.input_terminated": True, "HTTP_AUTHORIZATION": f"Bearer {TOKEN}"}
    del environ["CONTENT_LENGTH"]
    assert api.open(environ).status_code == 413
