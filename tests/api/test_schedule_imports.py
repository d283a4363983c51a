"""Schedules from the configuration of other tools, and all schedules as one file."""

from __future__ import annotations

from typing import Any

import yaml
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from mirror.schedules.definition import ScheduleRequestSchema
from mirror.schedules.yaml_reader import MOST_BYTES
from mirror.wiring import Core
from tests.api.job_requests import errors_of

REGSYNC = """\
version: 1
creds:
  - registry: docker.io
    user: puller
    pass: hunter2
sync:
  - source: alpine:3.20
    target: mirror.example:5000/base/alpine:3.20
    type: image
    backup: old
    schedule: 15 3 * * *
  - source: busybox
    target: mirror.example:5000/base/busybox
    type: repository
    tags: {allow: [latest]}
  - source: ocidir://here
    target: mirror.example:5000/here
    type: image
"""
IMPORT = "/v1/schedules/import?format=regsync"


def post(api: FlaskClient, text: str | bytes, query: str = "", content_type: str = "application/yaml") -> TestResponse:
    return api.post(IMPORT + query, data=text, content_type=content_type)


def outcomes(response: TestResponse) -> dict[str, str]:
    assert response.status_code == 200, response.get_json()
    return {schedule["name"]: schedule["outcome"] for schedule in response.get_json()["schedules"]}


def names(api: FlaskClient) -> list[str]:
    return [schedule["name"] for schedule in api.get("/v1/schedules").get_json()["items"]]


def test_a_dry_run_says_what_an_import_creates(api: FlaskClient) -> None:
    response = post(api, REGSYNC, "&dry_run=true")
    assert outcomes(response) == {"alpine": "created", "busybox": "created"}
    document = response.get_json()
    assert document["dry_run"] is True
    assert names(api) == []
    assert document["schedules"][0]["definition"]["cron"] == "15 3 * * *"
    assert document["schedules"][1]["definition"]["every"] == "24h"
    ignored = {one["path"]: one["line"] for one in document["ignored"]}
    assert ignored["sync[0].backup"] == 10
    assert "creds[0].pass" in ignored
    [refused] = document["refused"]
    assert refused["line"] >= 16
    assert any("mirror.example:5000" in note for note in document["notes"])
    assert "hunter2" not in response.get_data(as_text=True)


def test_an_import_creates_what_is_new_and_overwrites_nothing(api: FlaskClient) -> None:
    own = {"name": "alpine", "cron": "0 4 * * *", "job": {"source": "alpine"}}
    assert api.post("/v1/schedules", json=own).status_code == 201
    assert outcomes(post(api, REGSYNC)) == {"alpine": "exists", "busybox": "created"}
    assert api.get("/v1/schedules/alpine").get_json()["cron"] == "0 4 * * *"
    assert api.get("/v1/schedules/busybox").get_json()["job"]["target"] == "base/busybox"
    assert outcomes(post(api, REGSYNC)) == {"alpine": "exists", "busybox": "exists"}


def test_what_this_mirror_refuses_is_reported_and_the_rest_is_created(api: FlaskClient) -> None:
    text = REGSYNC.replace("source: alpine:3.20", "source: 10.0.0.1:5000/alpine:3.20").replace("busybox", "export")
    response = post(api, text)
    assert outcomes(response) == {"10.0.0.1-5000-alpine": "invalid", "export": "invalid"}
    problems = [schedule["problems"] for schedule in response.get_json()["schedules"]]
    assert [problem["pointer"] for [problem] in problems] == ["/job/source", "/name"]
    assert "10.0.0.1" in problems[0][0]["detail"]
    assert names(api) == []
    dry = post(api, text, "&dry_run=true").get_json()
    assert {**dry, "dry_run": False} == response.get_json()


def test_an_import_is_given_the_times_that_its_text_does_not_say(api: FlaskClient) -> None:
    post(api, REGSYNC, "&cron=30+2+*+*+*&time_zone=Europe/Paris&jitter=1h")
    found = api.get("/v1/schedules/busybox").get_json()
    assert (found["cron"], found["time_zone"], found["jitter"]) == ("30 2 * * *", "Europe/Paris", "1h")
    for query, parameter in (
        ("&cron=30+2", "cron"),
        ("&every=1s", "every"),
        ("&time_zone=Mars", "time_zone"),
        ("&dryrun=1", "dryrun"),
    ):
        [error] = errors_of(post(api, REGSYNC, query))
        assert error["parameter"] == parameter
    [error] = errors_of(api.post("/v1/schedules/import", data=REGSYNC))
    assert error["parameter"] == "format"


def test_a_text_that_cannot_be_read_creates_nothing(api: FlaskClient) -> None:
    for text in ("sync: [", "a: 1\na: 2", "", "7", "[1, 2]", b"\xff\xfe", "&a [*a]", "x: " + "[" * 5000):
        response = post(api, text)
        assert (response.status_code, response.get_json()["code"]) == (422, "FILE_INVALID"), text
    response = post(api, "#" * (MOST_BYTES + 1))
    assert (response.status_code, response.get_json()["code"]) == (413, "REQUEST_TOO_LARGE")
    assert names(api) == []


def test_any_type_of_content_is_read(api: FlaskClient) -> None:
    for content_type in ("text/plain", "application/json", "application/x-www-form-urlencoded"):
        assert len(outcomes(post(api, REGSYNC, "&dry_run=true", content_type))) == 2


def test_an_export_is_a_sync_file_with_the_same_meaning(api: FlaskClient, core: Core) -> None:
    assert yaml.safe_load(api.get("/v1/schedules/export").get_data()) == {"version": 1, "syncs": []}
    definitions: list[dict[str, Any]] = [
        {"name": "a", "cron": "30 2 * * *", "job": {"source": "redis:7"}},
        {
            "name": "b",
            "every": "6h",
            "time_zone": "Europe/Paris",
            "enabled": False,
            "labels": {"version": "1.10", "on": "no"},
            "deadline": "4h",
            "delete_brake": {"max_count": 7},
            "on_delete_upstream": "delete",
            "job": {"source": "alpine", "tags": {"allow": [{"exact": "3.10"}]}},
        },
    ]
    for definition in definitions[::-1]:
        core.schedules.create(ScheduleRequestSchema().load(definition), "file" if definition["name"] == "a" else "api")
    response = api.get("/v1/schedules/export")
    assert response.content_type == "application/yaml"
    syncs = yaml.safe_load(response.get_data())["syncs"]
    assert [set(sync) for sync in syncs] == [set(definition) for definition in definitions]
    assert [ScheduleRequestSchema().load(sync) for sync in syncs] == [
        core.schedules.store.schedule(name).definition for name in ("a", "b")
    ]


def test_an_export_is_imported_again(api: FlaskClient, core: Core) -> None:
    create = {"name": "a", "cron": "30 2 * * *", "labels": {"team": "base"}, "job": {"source": "redis:7"}}
    assert api.post("/v1/schedules", json=create).status_code == 201
    before = core.schedules.store.schedule("a").definition
    text = api.get("/v1/schedules/export").get_data(as_text=True)
    text += "credentials: {hub: {registry: docker.io, username: u, password: '${HUB_PASSWORD}'}}\n"
    query = "/v1/schedules/import?format=mirror"
    assert outcomes(api.post(query, data=text)) == {"a": "exists"}
    assert api.delete("/v1/schedules/a").status_code == 204
    response = api.post(query, data=text)
    assert outcomes(response) == {"a": "created"}
    assert [one["path"] for one in response.get_json()["ignored"]] == ["credentials"]
    assert core.schedules.store.schedule("a").definition == before
    assert core.schedules.store.schedule("a").origin == "api"
    broken = api.post(query, data=text.replace("30 2 * * *", "30 25 * * *").replace("redis:7", "Redis:7"))
    assert (broken.status_code, broken.get_json()["code"]) == (422, "FILE_INVALID")
    assert broken.get_json()["errors"][0]["line"] > 1
