"""Rules for tags that cannot be used are refused before there is a job."""

from __future__ import annotations

from typing import Any

import pytest
from flask.testing import FlaskClient

from mirror.oci import tag_pattern
from mirror.wiring import Core

ALPINE = "docker.io/library/alpine"


def post(api: FlaskClient, tags: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    response = api.post("/v1/jobs", json={"source": ALPINE, "tags": tags})
    return response.status_code, response.get_json()


@pytest.mark.parametrize(
    ("tags", "pointer", "detail"),
    [
        (
            {"allow": [{"glob": "*"}, {"regex": "a(?!b)"}]},
            "/tags/allow/1",
            "at character 2, invalid perl operator '(?!'",
        ),
        ({"deny": [{"glob": "1.[0-9"}]}, "/tags/deny/0", "the '[' at character 3 is not closed"),
        ({"deny": [{"regex": "\ud800"}]}, "/tags/deny/0", "character 1 is not ASCII"),
        ({"semver": ">=3.18 <<4"}, "/tags/semver", "at character 9, write '<='"),
    ],
)
def test_a_mistake_is_named_with_its_field_and_position(
    api: FlaskClient, core: Core, tags: dict[str, Any], pointer: str, detail: str
) -> None:
    status, problem = post(api, tags)
    assert (status, problem["code"]) == (422, "REQUEST_INVALID")
    [error] = problem["errors"]
    assert error["pointer"] == pointer
    assert detail in error["detail"]
    assert api.get("/v1/jobs").get_json()["items"] == []


def test_an_expression_that_would_backtrack_for_years_is_accepted(api: FlaskClient) -> None:
    status, job = post(api, {"allow": [{"regex": "(a+)+$"}]})
    assert status == 202, job


def test_without_re2_an_expression_has_its_own_code_and_hint(api: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tag_pattern, "re2", None)
    status, problem = post(api, {"allow": [{"regex": "an expression that no other test compiled"}]})
    assert (status, problem["code"]) == (422, "REGEX_UNAVAILABLE")
    assert "google-re2" in problem["hint"]
    assert post(api, {"allow": [{"glob": "3.*"}]})[0] == 202
