"""``POST /v1/jobs`` refuses what cannot work. The answer says what is wrong, and no job is queued."""

from __future__ import annotations

from typing import Any

import pytest
from flask.testing import FlaskClient

from tests.api.job_requests import errors_of

ALLOWED = (
    "source, target, tags, platforms, overwrite, immutable, on_move_upstream, referrers, foreign_layers, signature"
)
ALL_ALLOWED = f"{ALLOWED}, images, plan, priority, on_error, atomic"


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"source": "Redis:7"}, "NAME_INVALID"),
        ({"source": "redis:bad tag"}, "NAME_INVALID"),
        ({"source": "redis:"}, "TAG_INVALID"),
        ({"source": "redis@sha256:12"}, "DIGEST_INVALID"),
        ({"source": "redis", "target": "docker.io/evil/redis:7" * 20}, "NAME_INVALID"),
        ({"source": "quay.io/evil/redis:7", "target": "docker.io/library/redis:7"}, "TARGET_RESERVED"),
        ({"source": "evil/redis:7", "target": "docker.io/library/redis:7"}, "TARGET_RESERVED"),
        ({"source": "index.docker.io:443/evil/redis:7", "target": "docker.io/redis:7"}, "TARGET_RESERVED"),
        ({"source": "quay.io/library/redis:7", "target": "library/redis:7"}, "TARGET_RESERVED"),
        ({"source": "redis", "target": "a" * 250}, "NAME_TOO_LONG"),
        ({"source": "169.254.169.254/a/b:1"}, "ADDRESS_NOT_ALLOWED"),
        ({"images": [{"source": "redis"}, {"source": "Redis:7"}]}, "NAME_INVALID"),
        ({"images": [{"source": "redis"}, {"source": "docker.io/library/redis:latest"}]}, "TARGET_REPEATED"),
    ],
)
def test_what_can_never_work_is_refused_before_there_is_a_job(api: FlaskClient, body: object, code: str) -> None:
    response = api.post("/v1/jobs", json=body)
    assert (response.status_code, response.get_json()["code"]) == (422, code)
    assert api.get("/v1/jobs").get_json()["items"] == []


def test_every_wrong_field_is_named_at_once(api: FlaskClient) -> None:
    errors = errors_of(api.post("/v1/jobs", json={"sources": "redis", "target": 7, "a/b~c": 1}))
    assert {error["pointer"]: error["detail"] for error in errors} == {
        "/source": "Missing data for required field.",
        "/target": "Write a name, or an object with a 'template'.",
        "/sources": f"Unknown field 'sources'. Did you mean 'source'? Allowed: {ALL_ALLOWED}.",
        "/a~1b~0c": f"Unknown field 'a/b~c'. Allowed: {ALL_ALLOWED}.",
    }


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({}, {"/source": "Missing data for required field."}),
        ({"images": []}, {"/images": "Length must be between 1 and 10000."}),
        ({"images": [{"source": "redis"}] * 10_001}, {"/images": "Length must be between 1 and 10000."}),
        ({"images": "redis"}, {"/images": "Not a valid list."}),
        ({"images": None}, {"/images": "Field may not be null."}),
        ({"images": ["redis"]}, {"/images/0": "Invalid input type."}),
        (
            {"images": [{"source": "redis"}, {"sauce": "redis", "target": 7}]},
            {
                "/images/1/source": "Missing data for required field.",
                "/images/1/sauce": f"Unknown field 'sauce'. Did you mean 'source'? Allowed: {ALLOWED}.",
                "/images/1/target": "Write a name, or an object with a 'template'.",
            },
        ),
        (
            {"images": [{"source": "redis"}], "source": "redis", "target": "redis"},
            {"/source": "Not beside 'images'.", "/target": "Not beside 'images'."},
        ),
    ],
)
def test_what_is_wrong_with_a_list_of_images_is_named(api: FlaskClient, body: object, expected: object) -> None:
    assert {error["pointer"]: error["detail"] for error in errors_of(api.post("/v1/jobs", json=body))} == expected
    assert api.get("/v1/jobs").get_json()["items"] == []


def test_a_body_that_is_no_object_is_named_as_a_whole(api: FlaskClient) -> None:
    assert errors_of(api.post("/v1/jobs", json=["redis"])) == [{"pointer": "", "detail": "Invalid input type."}]


def test_an_unknown_option_does_not_queue_a_job(api: FlaskClient) -> None:
    response = api.post("/v1/jobs?dryrun=true", json={"source": "redis"})
    assert errors_of(response) == [
        {"parameter": "dryrun", "detail": "Unknown parameter 'dryrun'. Did you mean 'dry_run'? Allowed: dry_run."}
    ]
    assert api.get("/v1/jobs").get_json()["items"] == []


@pytest.mark.parametrize("body", ["", "  ", "{", "source=redis", '{"source": NaNN}', "[" * 60_000, b"\xff\xfe\xfa"])
def test_a_body_that_is_not_json_is_400(api: FlaskClient, body: str | bytes) -> None:
    response = api.post("/v1/jobs", data=body)
    assert (response.status_code, response.get_json()["code"]) == (400, "REQUEST_MALFORMED")


@pytest.mark.parametrize("media_type", ["text/xml", "text/plain", "multipart/form-data; boundary=x"])
def test_a_body_of_another_type_is_415(api: FlaskClient, media_type: str) -> None:
    response = api.post("/v1/jobs", data='{"source": "redis"}', content_type=media_type)
    assert (response.status_code, response.get_json()["code"]) == (415, "UNSUPPORTED_MEDIA_TYPE")


def test_a_body_beyond_4_mib_is_413(api: FlaskClient) -> None:
    response = api.post("/v1/jobs", json={"source": "r" * (4 * 2**20 + 1)})
    assert (response.status_code, response.get_json()["code"]) == (413, "REQUEST_TOO_LARGE")


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"source": "alpine", "tags": {"latest": {"count": 0}}}, "/tags/latest/count"),
        ({"source": "alpine", "tags": {"min_age": "soon"}}, "/tags/min_age"),
        ({"source": "alpine", "tags": {"allow": [{"glob": "*", "exact": "1"}]}}, "/tags/allow/0"),
        ({"source": "alpine", "tags": {"sember": ">=1"}}, "/tags/sember"),
        ({"source": "alpine", "platforms": {"mode": "sparse"}}, "/platforms/only"),
        ({"source": "alpine", "platforms": {"only": ["arm64"], "mode": "sparse"}}, "/platforms/only/0"),
        ({"source": "alpine", "overwrite": "maybe"}, "/overwrite"),
        ({"source": "alpine", "target": []}, "/target"),
        ({"source": {"repo": "alpine"}}, "/source/repository"),
        ({"source": "alpine", "priority": "urgent"}, "/priority"),
        ({"images": [{"source": "alpine", "tags": {"max_tags": 0}}]}, "/images/0/tags/max_tags"),
    ],
)
def test_a_wrong_rule_is_named(api: FlaskClient, body: object, pointer: str) -> None:
    assert pointer in {error["pointer"] for error in errors_of(api.post("/v1/jobs", json=body))}
    assert api.get("/v1/jobs").get_json()["items"] == []


def test_rules_for_tags_do_not_go_with_an_image_that_names_its_tag(api: FlaskClient) -> None:
    response = api.post("/v1/jobs", json={"source": "alpine:3.20", "tags": {"semver": ">=3"}})
    assert response.status_code == 422
    assert response.get_json()["code"] == "NAME_INVALID"
    assert "names a tag" in response.get_json()["detail"]
    assert "leave out 'tags'" in response.get_json()["hint"]
    everything = api.post("/v1/jobs", json={"source": "docker.io/*"}).get_json()
    assert "nobody can list all of Docker Hub" in everything["detail"]
    assert "'docker.io/bitnami/*'" in everything["hint"]


@pytest.mark.parametrize(
    ("target", "code"),
    [
        ("team/{nam}", "TEMPLATE_INVALID"),
        ("team/{name", "TEMPLATE_INVALID"),
        (["team/{name}", "team/redis:{tag}"], "TARGET_REPEATED"),
        ("quay.io/{name}", "TARGET_RESERVED"),
        ({"template": "team/{nam}"}, "REQUEST_INVALID"),
        ({"tag": {"regex": "(", "to": "x"}}, "REQUEST_INVALID"),
    ],
)
@pytest.mark.parametrize("more", [{}, {"tags": {}}])
def test_a_rule_for_targets_that_cannot_work_is_refused(
    api: FlaskClient, target: object, code: str, more: dict[str, Any]
) -> None:
    refused = api.post("/v1/jobs", json={"source": "redis", "target": target, **more})
    if code == "TARGET_REPEATED" and more:
        assert refused.status_code == 202  # no tag is known yet
    else:
        assert (refused.status_code, refused.get_json()["code"]) == (422, code)


def test_a_rule_that_no_image_of_a_wildcard_can_use_is_refused(api: FlaskClient) -> None:
    refused = api.post("/v1/jobs", json={"source": "docker.io/bitnami/*", "target": "library/{name}"})
    assert (refused.status_code, refused.get_json()["code"]) == (422, "TARGET_RESERVED")
