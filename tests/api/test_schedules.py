"""Create, read, list, change and delete schedules."""

from __future__ import annotations

from typing import Any, Final

from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from mirror.records.schedule import Schedule
from mirror.redis import keys
from mirror.schedules.definition import ScheduleRequestSchema
from mirror.wiring import Core
from tests.api.job_requests import MOMENT, errors_of
from tests.api.schedule_requests import NIGHTLY, ONE, create, refused


def names(response: TestResponse) -> list[str]:
    return [schedule["name"] for schedule in response.get_json()["items"]]


def from_file(core: Core, **fields: Any) -> Schedule:
    """A schedule as the sync file makes it."""
    return core.schedules.create(ScheduleRequestSchema().load({**NIGHTLY, **fields}), "file")


def test_a_new_schedule_is_shown_with_all_defaults(api: FlaskClient) -> None:
    response = api.post("/v1/schedules", json=NIGHTLY)
    document = response.get_json()
    assert (response.status_code, response.headers["ETag"]) == (201, '"1"')
    url = f"https://mirror.example:8443/v1/schedules/{document['id']}"
    assert response.headers["Location"] == url
    assert all(MOMENT.fullmatch(document.pop(name)) for name in ("created_at", "updated_at"))
    next_run = document.pop("next_run")
    assert next_run["slot"] == next_run["starts_at"]
    assert next_run["slot"][14:] == "30:00.000Z"
    assert document == {
        **NIGHTLY,
        "every": None,
        "jitter": "0s",
        "enabled": True,
        "overlap": "skip",
        "catch_up": "last",
        "deadline": None,
        "run_on_change": False,
        "labels": {},
        "on_delete_upstream": "keep",
        "delete_brake": {"max_share": 0.5, "max_count": 100},
        "gone_for": 3,
        "on_move_upstream": "follow",
        "id": document["id"],
        "version": 1,
        "origin": "api",
        "owner": "admin",
        "health": {
            "state": "new",
            "last_run": None,
            "last_success_at": None,
            "lag_seconds": None,
            "consecutive_failures": 0,
            "running": None,
            "queued": None,
        },
        "links": {"self": url, **{name: f"{url}/{name}" for name in ("run", "runs", "preview", "drift")}},
    }


def test_a_schedule_is_read_by_its_name_and_by_its_id(api: FlaskClient) -> None:
    created = create(api)
    for name in ("nightly", created["id"]):
        response = api.get(f"/v1/schedules/{name}")
        assert (response.status_code, response.headers["ETag"]) == (200, '"1"')
        assert response.get_json() == created


def test_an_unchanged_definition_is_not_sent_again(api: FlaskClient) -> None:
    create(api)
    for given, status in (('"1"', 304), ('W/"1"', 304), ("*", 304), ('"2"', 200), ("", 200)):
        response = api.get(ONE, headers={"If-None-Match": given})
        assert (response.status_code, response.headers["ETag"]) == (status, '"1"'), given


def test_an_unknown_schedule_is_404(api: FlaskClient) -> None:
    for path in ("", "/runs", "/runs/run_01JDB2V3R8Y0N5Q7T9W1X3Z5B7", "/preview", "/drift"):
        assert refused(api.get(ONE + path)) == (404, "SCHEDULE_UNKNOWN")
    headers = {"If-Match": '"1"'}
    for response in (
        api.patch(ONE, json={}, headers=headers),
        api.delete(ONE, headers=headers),
        api.post(f"{ONE}/run"),
        api.put(f"/v1/schedules/schedule_{'0' * 26}", json=NIGHTLY),
    ):
        assert refused(response) == (404, "SCHEDULE_UNKNOWN")


def test_a_name_is_unique(api: FlaskClient) -> None:
    create(api)
    assert refused(api.post("/v1/schedules", json=NIGHTLY)) == (409, "SCHEDULE_EXISTS")


def test_all_errors_of_a_definition_are_named_at_once(api: FlaskClient) -> None:
    wrong = {
        "name": "Nightly",
        "crom": "30 2 * * *",
        "jitter": "soon",
        "labels": {"-team": "base"},
        "delete_brake": {"max_shares": 1},
        "job": {"source": 7, "tags": {"semvr": "1"}, "plan": None},
    }
    found = {error["pointer"]: error["detail"] for error in errors_of(api.post("/v1/schedules", json=wrong))}
    assert {"/name", "/crom", "/jitter", "/delete_brake/max_shares", "/job/source", "/job/tags/semvr"} < set(found)
    assert "Did you mean 'cron'?" in found["/crom"]
    assert "Did you mean 'max_share'?" in found["/delete_brake/max_shares"]
    assert "Did you mean 'semver'?" in found["/job/tags/semvr"]


IMPOSSIBLE: Final[list[tuple[dict[str, Any], set[str]]]] = [
    ({"cron": "61 2 * * *", "time_zone": "Europe/Pariss"}, {"/cron", "/time_zone"}),
    ({"cron": "0 2 30 2 *"}, {"/cron"}),
    ({"every": "6h"}, {"/every"}),
    ({"cron": None}, {"/cron"}),
    ({"cron": None, "every": "10s"}, {"/every"}),
    ({"jitter": "25h"}, {"/jitter"}),
    ({"job": {"plan": "plan_1"}}, {"/job/plan"}),
    ({"job": {}}, {"/job/source"}),
    ({"on_delete_upstream": "delete"}, {"/job/source"}),
    ({"labels": {f"l{n}": "" for n in range(33)}}, {"/labels"}),
    ({"name": "export"}, {"/name"}),
    ({"name": "schedule_" + "0" * 26}, {"/name"}),
    ({"name": "n" * 64}, {"/name"}),
    ({"deadline": "forever", "gone_for": 0, "overlap": "wait"}, {"/deadline", "/gone_for", "/overlap"}),
]
IMPOSSIBLE_JOBS: Final[list[tuple[dict[str, Any], str, str]]] = [
    ({"source": "Redis:7"}, "NAME_INVALID", "/job/source"),
    ({"source": "redis:7", "target": "quay.io/redis:7"}, "TARGET_RESERVED", "/job/source"),
    ({"images": [{"source": "redis:7"}, {"source": "10.0.0.1/redis:7"}]}, "ADDRESS_NOT_ALLOWED", "/job/images/1"),
    ({"images": [{"source": "redis:7"}, {"source": "redis:7"}]}, "TARGET_REPEATED", "/job"),
]


def test_what_can_never_work_is_refused(api: FlaskClient) -> None:
    for fields, pointers in IMPOSSIBLE:
        response = api.post("/v1/schedules", json={**NIGHTLY, **fields})
        assert {error["pointer"] for error in errors_of(response)} == pointers
    for job, code, pointer in IMPOSSIBLE_JOBS:
        response = api.post("/v1/schedules", json={**NIGHTLY, "job": job})
        assert refused(response) == (422, code)
        assert [error["pointer"] for error in response.get_json()["errors"]] == [pointer]
    assert names(api.get("/v1/schedules")) == []
    create(api)
    for job, code, _ in IMPOSSIBLE_JOBS:
        assert refused(api.patch(ONE, json={"job": {"source": None, **job}})) == (422, code)


def test_pages_list_every_schedule_once(api: FlaskClient) -> None:
    created = [create(api, name=f"s{n}")["name"] for n in range(5)]
    found, query = [], "limit=2"
    while query:
        page = api.get(f"/v1/schedules?{query}")
        found.append(names(page))
        following = page.get_json()["next"]
        query = following and f"limit=2&cursor={following}"
        assert ("Link" in page.headers) == (following is not None)
    assert found == [created[:2], created[2:4], created[4:]]


def test_the_list_is_filtered_by_a_label(api: FlaskClient) -> None:
    for n in range(5):
        create(api, name=f"s{n}", labels={"team": "base" if n % 2 else "web", "note": "a=b"})
    assert names(api.get("/v1/schedules?label=team=base")) == ["s1", "s3"]
    assert names(api.get("/v1/schedules?label=note=a=b")) == ["s0", "s1", "s2", "s3", "s4"]
    assert names(api.get("/v1/schedules?label=team=")) == []
    page = api.get("/v1/schedules?label=team=base&limit=1")
    assert names(page) == ["s1"]
    assert "label=team%3Dbase" in page.headers["Link"] or "label=team=base" in page.headers["Link"]
    assert names(api.get(f"/v1/schedules?label=team=base&limit=1&cursor={page.get_json()['next']}")) == ["s3"]


def test_a_wrong_filter_is_refused(api: FlaskClient) -> None:
    for query in ("label=team", "label==base", "state=broken", "label=a=b&label=c=d", "stat=late"):
        [error] = errors_of(api.get(f"/v1/schedules?{query}"))
        assert error["parameter"] == query.partition("=")[0]


def test_a_page_with_large_jobs_ends_early(api: FlaskClient, core: Core) -> None:
    images = [{"source": f"registry.example/{'n' * 180}/{n}:1"} for n in range(6000)]
    for n in range(8):
        definition = ScheduleRequestSchema().load({**NIGHTLY, "name": f"s{n}"})
        schedule = core.schedules.create(definition)
        large = core.redis.call("HGET", keys.schedule(schedule.id), "definition")
        stored = large.replace('{"source": "redis:7"}', str({"images": images}).replace("'", '"'))
        core.redis.call("HSET", keys.schedule(schedule.id), "definition", stored)
    page = api.get("/v1/schedules")
    assert 1 < len(names(page)) < 8
    rest = api.get(f"/v1/schedules?cursor={page.get_json()['next']}")
    assert names(page) + names(rest) == [f"s{n}" for n in range(8)]


def test_put_creates_replaces_and_leaves_an_equal_definition_alone(api: FlaskClient) -> None:
    response = api.put(ONE, json=NIGHTLY)
    assert (response.status_code, response.headers["ETag"]) == (201, '"1"')
    assert response.headers["Location"] == response.get_json()["links"]["self"]
    response = api.put(ONE, json={**NIGHTLY, "cron": "0 3 * * *"})
    assert (response.status_code, response.headers["ETag"], response.get_json()["cron"]) == (200, '"2"', "0 3 * * *")
    response = api.put(ONE, json={**NIGHTLY, "cron": "0 3 * * *"})
    assert (response.status_code, response.headers["ETag"]) == (200, '"2"')


def test_put_needs_the_name_of_the_url_and_renames_by_the_id(api: FlaskClient) -> None:
    created = create(api)
    create(api, name="other")
    [error] = errors_of(api.put(ONE, json={**NIGHTLY, "name": "hourly"}))
    assert error["pointer"] == "/name"
    by_id = f"/v1/schedules/{created['id']}"
    assert refused(api.put(by_id, json={**NIGHTLY, "name": "other"})) == (409, "SCHEDULE_EXISTS")
    assert api.put(by_id, json={**NIGHTLY, "name": "hourly"}).get_json()["id"] == created["id"]
    assert refused(api.get(ONE)) == (404, "SCHEDULE_UNKNOWN")
    assert api.get("/v1/schedules/hourly").get_json()["id"] == created["id"]


def test_a_patch_changes_some_fields_and_resets_others(api: FlaskClient) -> None:
    create(api, labels={"team": "base", "tier": "1"}, overlap="queue", jitter="10m")
    patch = {
        "enabled": False,
        "labels": {"tier": None, "zone": "eu"},
        "overlap": None,
        "delete_brake": {"max_count": 7},
    }
    response = api.patch(ONE, json=patch, content_type="application/merge-patch+json")
    document = response.get_json()
    assert (response.status_code, response.headers["ETag"]) == (200, '"2"')
    assert (document["enabled"], document["next_run"], document["health"]["state"]) == (False, None, "disabled")
    assert (document["labels"], document["overlap"]) == ({"team": "base", "zone": "eu"}, "skip")
    assert document["delete_brake"] == {"max_share": 0.5, "max_count": 7}
    assert (document["jitter"], document["cron"]) == ("10m", "30 2 * * *")
    enabled = api.patch(ONE, json={"enabled": True}).get_json()
    assert enabled["next_run"] is not None


def test_a_patch_goes_from_cron_to_every_and_renames(api: FlaskClient) -> None:
    create(api)
    assert {error["pointer"] for error in errors_of(api.patch(ONE, json={"every": "6h"}))} == {"/every"}
    document = api.patch(ONE, json={"cron": None, "every": "6h", "name": "six-hourly"}).get_json()
    assert (document["cron"], document["every"], document["name"]) == (None, "6h", "six-hourly")
    assert api.get("/v1/schedules/six-hourly").status_code == 200


def test_a_patch_merges_the_job_too(api: FlaskClient) -> None:
    create(api, job={"source": "alpine", "tags": {"semver": ">=3"}, "priority": "low"})
    document = api.patch(ONE, json={"job": {"tags": {"semver": ">=3.18", "latest": {"count": 2}}}}).get_json()
    expected = {"source": "alpine", "tags": {"semver": ">=3.18", "latest": {"count": 2}}, "priority": "low"}
    assert document["job"] == expected


def test_a_patch_is_an_object(api: FlaskClient) -> None:
    create(api)
    for patch in ("[]", '"x"', "7", "null"):
        [error] = errors_of(api.patch(ONE, data=patch))
        assert error["pointer"] == ""


def test_all_errors_of_a_patch_are_named_at_once(api: FlaskClient) -> None:
    create(api)
    patch = {"enabeld": False, "time_zone": 7, "job": {"tags": {"semvr": "1"}}, "name": None}
    found = {error["pointer"]: error["detail"] for error in errors_of(api.patch(ONE, json=patch))}
    assert set(found) == {"/enabeld", "/time_zone", "/job/tags/semvr", "/name"}
    assert "Did you mean 'enabled'?" in found["/enabeld"]
    assert api.get(ONE).get_json()["version"] == 1


def test_a_deep_body_is_refused(api: FlaskClient) -> None:
    create(api)
    for depth in (500, 980, 5000):
        body = '{"labels": ' + '{"a": ' * depth + "1" + "}" * depth + "}"
        for method, path in (
            ("patch", ONE),
            ("put", ONE),
            ("post", "/v1/schedules"),
            ("post", "/v1/schedules/preview"),
        ):
            assert 400 <= api.open(path, method=method, data=body).status_code < 500


def test_a_deleted_schedule_is_gone_with_its_runs_and_its_name_is_free(api: FlaskClient) -> None:
    created = create(api)
    run = api.post(f"{ONE}/run").get_json()
    assert api.delete(ONE).status_code == 204
    assert refused(api.get(ONE)) == (404, "SCHEDULE_UNKNOWN")
    assert refused(api.delete(ONE)) == (404, "SCHEDULE_UNKNOWN")
    again = create(api)
    assert again["id"] != created["id"]
    assert refused(api.get(f"{ONE}/runs/{run['id']}")) == (404, "RUN_UNKNOWN")
    assert api.get(f"/v1/jobs/{run['job']['id']}").status_code == 200


def test_a_schedule_of_the_sync_file_is_changed_in_that_file(api: FlaskClient, core: Core) -> None:
    from_file(core)
    assert api.get(ONE).get_json()["origin"] == "file"
    for response in (
        api.put(ONE, json=NIGHTLY),
        api.patch(ONE, json={"enabled": False}, headers={"If-Match": '"9"'}),
        api.delete(ONE),
    ):
        assert refused(response) == (409, "SCHEDULE_FROM_FILE")
        assert "MIRROR_SYNC_FILE" in response.get_json()["hint"]
    assert api.post(f"{ONE}/run").status_code == 202


def test_a_schedule_of_a_newer_release_is_listed_and_its_job_fails(api: FlaskClient, core: Core) -> None:
    created = create(api)
    key = keys.schedule(created["id"])
    definition = core.redis.call("HGET", key, "definition").replace("redis:7", 'redis:7", "new": "x')
    core.redis.call("HSET", key, "definition", definition)
    assert names(api.get("/v1/schedules")) == ["nightly"]
    assert api.get(ONE).get_json()["job"] == {"source": "redis:7", "new": "x"}
    run = api.post(f"{ONE}/run").get_json()
    assert (run["state"], run["note"]["code"]) == ("failed", "SCHEDULE_INVALID")


def test_nobody_without_the_token_sees_or_changes_schedules(anyone: FlaskClient) -> None:
    for method, path in (("get", "/v1/schedules"), ("post", "/v1/schedules"), ("delete", ONE), ("post", f"{ONE}/run")):
        assert refused(anyone.open(path, method=method)) == (401, "UNAUTHORIZED")
