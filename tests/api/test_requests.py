"""Ambiguous requests are refused: names that are given twice, and unknown names."""

from __future__ import annotations

from typing import Any

import pytest
from flask.testing import FlaskClient

from mirror.wiring import Core

ALLOWED_OF_AN_IMAGE = (
    "source, target, tags, platforms, overwrite, immutable, on_move_upstream, referrers, foreign_layers, signature"
)
ALLOWED = f"{ALLOWED_OF_AN_IMAGE}, images, plan, priority, on_error, atomic"


def problem(response: Any) -> tuple[int, dict[str, Any]]:
    assert response.content_type == "application/problem+json"
    return response.status_code, response.get_json()


@pytest.mark.parametrize(
    ("method", "path", "names"),
    [
        ("GET", "/v1/jobs?limit=1&limit=2", ["limit"]),
        ("GET", "/v1/jobs?limit=1&limit=1", ["limit"]),
        ("GET", "/v1/jobs?state=failed&source=a&state=failed&source=b", ["state", "source"]),
        ("GET", "/v1/images?repository=a&repository=b", ["repository"]),
        ("GET", "/v1/repositories?cursor=YQ&cursor=Yg", ["cursor"]),
        ("GET", "/v1/jobs?unknown=1&unknown=2", ["unknown"]),
        ("POST", "/v1/jobs?dry_run=true&dry_run=false", ["dry_run"]),
        ("DELETE", "/v1/images/a:1?force=1&force=0", ["force"]),
    ],
)
def test_a_query_parameter_that_is_given_twice_is_refused_by_name(
    api: FlaskClient, core: Core, method: str, path: str, names: list[str]
) -> None:
    status, found = problem(api.open(path, method=method, json={"source": "redis"} if method == "POST" else None))
    assert (status, found["code"]) == (422, "REQUEST_INVALID")
    assert [error["parameter"] for error in found["errors"]] == names
    assert all(repr(name) in found["detail"] for name in names)
    assert core.jobs.page(limit=1, before=None, state=None, source=None)[0] == []


@pytest.mark.parametrize("query", ["n=1&n=2", "n=1&n=1", "last=a&last=b", "n=5&last=a&n=6"])
@pytest.mark.parametrize("path", ["/v2/_catalog", "/v2/a/tags/list"])
def test_under_v2_too(anyone: FlaskClient, path: str, query: str) -> None:
    response = anyone.get(f"{path}?{query}")
    [error] = response.get_json()["errors"]
    assert (response.status_code, error["code"]) == (400, "REQUEST_INVALID")
    assert "more than once" in error["message"]
    assert ("'n'" in error["message"]) == (query.count("n=") == 2)


@pytest.mark.parametrize("path", ["/livez?a=1&a=2", "/readyz?verbose&verbose", "/v2/?a=1&a=2"])
def test_a_probe_may_ask_as_it_likes(anyone: FlaskClient, path: str) -> None:
    assert anyone.get(path).status_code == 200


@pytest.mark.parametrize(
    ("body", "name"),
    [
        ('{"source": "redis:7", "source": "evil.example/redis:7"}', "source"),
        ('{"source": "redis:7", "source": "redis:7"}', "source"),
        ('{"images": [{"source": "redis", "target": "a", "target": "b"}]}', "target"),
        ('{"images": [], "x": {"deep": {"y": 1, "y": 2}}}', "y"),
        ('{"source": "redis", "\\u0073ource": "b"}', "source"),
    ],
)
def test_a_field_that_stands_twice_in_a_body_is_refused_by_name(api: FlaskClient, body: str, name: str) -> None:
    status, found = problem(api.post("/v1/jobs", data=body))
    assert (status, found["code"]) == (400, "REQUEST_MALFORMED")
    assert f"'{name}'" in found["detail"]


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity"])
def test_what_only_python_calls_json_is_none(api: FlaskClient, value: str) -> None:
    assert problem(api.post("/v1/jobs", data=f'{{"source": {value}}}'))[0] == 400


@pytest.mark.parametrize(
    ("path", "body", "detail"),
    [
        ("/v1/jobs", {"sorce": "a"}, f"Unknown field 'sorce'. Did you mean 'source'? Allowed: {ALLOWED}."),
        ("/v1/jobs", {"image": []}, f"Unknown field 'image'. Did you mean 'images'? Allowed: {ALLOWED}."),
        ("/v1/jobs", {"zzz": 1}, f"Unknown field 'zzz'. Allowed: {ALLOWED}."),
        (
            "/v1/jobs",
            {"images": [{"source": "a", "targte": "b"}]},
            f"Unknown field 'targte'. Did you mean 'target'? Allowed: {ALLOWED_OF_AN_IMAGE}.",
        ),
    ],
)
def test_an_unknown_field_is_named_with_those_that_are_allowed_there(
    api: FlaskClient, path: str, body: dict[str, Any], detail: str
) -> None:
    status, found = problem(api.post(path, json=body))
    assert status == 422
    assert detail in [error["detail"] for error in found["errors"]]


def test_a_field_is_known_by_its_name_in_the_body(api: FlaskClient) -> None:
    """``from`` is a word of Python, and has another name in the code."""
    _, found = problem(api.put("/v1/images/a:1", json={"form": "b:1"}))
    assert found["errors"][0]["detail"] == "Unknown field 'form'. Did you mean 'from'? Allowed: from, digest."


@pytest.mark.parametrize(
    ("path", "detail"),
    [
        ("/v1/jobs?sate=failed", "Unknown parameter 'sate'. Did you mean 'state'? Allowed: "),
        ("/v1/images?repo=a", "Unknown parameter 'repo'. Allowed: "),
        ("/v1/repositories?limits=3", "Unknown parameter 'limits'. Did you mean 'limit'? Allowed: limit, cursor."),
    ],
)
def test_so_is_an_unknown_parameter(api: FlaskClient, path: str, detail: str) -> None:
    status, found = problem(api.get(path))
    assert status == 422
    assert found["errors"][0]["detail"].startswith(detail)


def test_a_long_name_is_neither_repeated_whole_nor_compared_for_long(api: FlaskClient) -> None:
    _, found = problem(api.post("/v1/jobs", json={"source": "redis", "x" * 60_000: 1}))
    assert len(found["errors"][0]["detail"]) < 250
