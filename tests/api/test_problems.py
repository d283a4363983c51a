from __future__ import annotations

import re

import pytest
from flask import Flask
from flask.testing import FlaskClient

from mirror.errors import BlobBeingDeleted, MirrorError, RateLimited, StorageRefused, StorageUnavailable, TagBusy
from service.http.problems import Failure

SECRET = "hunter2-in-a-traceback"


def test_a_problem_has_every_member_of_the_contract(api: FlaskClient) -> None:
    response = api.get("/v1/jobs/job%20x?token=secret")
    problem = response.get_json()
    assert response.content_type == "application/problem+json"
    assert problem == {
        "type": "/docs/errors#JOB_UNKNOWN",
        "title": "Job unknown",
        "status": 404,
        "detail": "There is no job 'job x'",
        "instance": "/v1/jobs/job%20x",
        "code": "JOB_UNKNOWN",
        "hint": "GET /v1/jobs lists the jobs.",
        "request_id": response.headers["X-Request-Id"],
    }


def test_the_type_of_a_problem_is_explained_where_it_points(api: FlaskClient) -> None:
    for url in ("/v1/jobs/none", "/v1/nothing"):
        page, _, anchor = api.get(url).get_json()["type"].partition("#")
        assert f'id="{anchor}"' in api.get(page).get_data(as_text=True)


def test_a_path_that_is_not_there_is_404(api: FlaskClient) -> None:
    for path in ("/v1/nothing", "/nothing", "/v1"):
        response = api.get(path)
        assert (response.status_code, response.get_json()["code"]) == (404, "NOT_FOUND")


def test_another_method_is_405_and_the_allowed_ones_are_named(api: FlaskClient) -> None:
    response = api.delete("/v1/jobs")
    assert (response.status_code, response.get_json()["code"]) == (405, "METHOD_NOT_ALLOWED")
    assert {"GET", "POST"} <= set(response.headers["Allow"].split(", "))


@pytest.mark.parametrize("path", ["/v1/boom", "/v2x"])
def test_what_nobody_expected_is_500_and_tells_nothing(app: Flask, api: FlaskClient, path: str) -> None:
    def boom() -> str:
        raise ValueError(SECRET)

    app.add_url_rule(path, view_func=boom)
    response = api.get(path)
    assert (response.status_code, response.get_json()["code"]) == (500, "INTERNAL_ERROR")
    assert SECRET not in response.get_data(as_text=True)


@pytest.mark.parametrize(
    ("error", "seconds"),
    [
        (RateLimited("docker.io", 12.2), "13"),
        (RateLimited("docker.io", 0), "1"),
        (TagBusy("a:1"), "2"),
        (BlobBeingDeleted("sha256:x"), "2"),
        (StorageUnavailable("be reached", "gone"), "5"),
        (StorageRefused("be read", "AccessDenied"), None),
    ],
)
def test_an_error_that_passes_says_when_to_try_again(error: MirrorError, seconds: str | None) -> None:
    assert Failure.of(error).headers.get("Retry-After") == seconds


@pytest.mark.parametrize("path", ["/livez", "/v1/jobs", "/v1/nothing", "/v2/", "/docs", "/openapi.json"])
def test_no_answer_is_sniffed_or_framed(api: FlaskClient, path: str) -> None:
    headers = api.get(path).headers
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
    assert re.fullmatch(r"[0-9a-f]{16}", headers["X-Request-Id"])
