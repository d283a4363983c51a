"""Runs of schedules, their health and their next times. The test sets the wall clock and ends the jobs."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import pytest
from flask.testing import FlaskClient

from mirror.redis import keys
from mirror.redis.client import Redis
from mirror.settings import Settings
from mirror.storage.s3 import S3Clients
from mirror.wiring import build
from service.api.health import readiness
from service.core import Service
from tests.api.job_requests import errors_of
from tests.conftest import bucket_for
from tests.integration.schedules.timeline import Timeline
from tests.support.harness import mark_built

URL: Final = "https://mirror.example:8443/v1"
HOURLY: Final = "/v1/schedules/hourly"


@pytest.fixture
def clock() -> list[datetime]:
    return [datetime(2026, 3, 2, 12, 0, tzinfo=UTC)]


@pytest.fixture
def service(api_settings: Settings, s3_clients: dict[str, S3Clients], clock: list[datetime]) -> Iterator[Service]:
    """A service by whose schedules the clock is what the test says. Nothing else in it is different."""
    bucket = bucket_for(api_settings, s3_clients)
    service = Service.of(build(api_settings, bucket=bucket, now=lambda: clock[0]))
    mark_built(service.core.redis)
    yield service
    service.close()


@pytest.fixture
def timeline(service: Service, clock: list[datetime]) -> Timeline:
    return Timeline(service.core, clock)


def health(api: FlaskClient) -> dict[str, Any]:
    return dict(api.get(HOURLY).get_json()["health"])


def test_a_run_now_is_shown_with_its_job(api: FlaskClient, timeline: Timeline) -> None:
    schedule = timeline.create(enabled=False)
    response = api.post(f"{HOURLY}/run", json={"ignore_brake": True})
    run = response.get_json()
    assert response.status_code == 202
    assert response.headers["Location"] == run["links"]["self"] == f"{URL}/schedules/{schedule.id}/runs/{run['id']}"
    job = run.pop("job")
    assert run == {
        "id": run["id"],
        "schedule": schedule.id,
        "state": "running",
        "reason": "manual",
        "slot": None,
        "missed": 0,
        "ignores_brake": True,
        "created_at": "2026-03-02T12:00:00.000Z",
        "finished_at": None,
        "note": None,
        "upstream": None,
        "links": {"self": run["links"]["self"], "schedule": f"{URL}/schedules/{schedule.id}"},
    }
    assert (job["id"], job["source"]) == (f"job_{run['id'][4:]}", "docker.io/library/redis:7")
    assert (job["links"]["run"], job["links"]["schedule"]) == (run["links"]["self"], run["links"]["schedule"])
    assert api.get(f"{HOURLY}/runs/{run['id']}").get_json() == {**run, "job": job}
    assert health(api)["running"] == run["id"]


def test_a_body_of_a_run_may_be_left_out_and_is_checked(api: FlaskClient, timeline: Timeline) -> None:
    timeline.create(overlap="queue")
    [error] = errors_of(api.post(f"{HOURLY}/run", json={"ignore_break": True}))
    assert "Did you mean 'ignore_brake'?" in error["detail"]
    assert api.post(f"{HOURLY}/run").status_code == 202
    assert api.post(f"{HOURLY}/run", json={}).get_json()["state"] == "queued"
    assert api.post(f"{HOURLY}/run?ignore_brake=true").status_code == 422


def test_a_second_run_is_refused_or_waits(api: FlaskClient, timeline: Timeline) -> None:
    timeline.create()
    first = api.post(f"{HOURLY}/run").get_json()
    response = api.post(f"{HOURLY}/run")
    assert (response.status_code, response.get_json()["code"]) == (409, "RUN_UNFINISHED")
    assert first["id"] in response.get_json()["detail"]
    api.patch(HOURLY, json={"overlap": "queue"})
    second = api.post(f"{HOURLY}/run").get_json()
    assert (second["state"], second["job"]) == ("queued", None)
    assert (health(api)["running"], health(api)["queued"]) == (first["id"], second["id"])
    assert api.post(f"{HOURLY}/run").status_code == 409


def test_runs_are_listed_newest_first_in_pages(api: FlaskClient, timeline: Timeline) -> None:
    timeline.create()
    for _ in range(5):
        timeline.pass_time(hours=1)
    timeline.finish()
    found: list[dict[str, Any]] = []
    query = "limit=2"
    while query:
        page = api.get(f"{HOURLY}/runs?{query}").get_json()
        assert len(page["items"]) <= 2
        found += page["items"]
        query = page["next"] and f"limit=2&cursor={page['next']}"
    assert [run["slot"][11:16] for run in found] == ["17:00", "16:00", "15:00", "14:00", "13:00"]
    assert [run["state"] for run in found] == ["skipped"] * 4 + ["succeeded"]
    assert found[0]["job"] is None
    assert (found[0]["note"]["code"], found[4]["job"]["state"]) == ("OVERLAP", "succeeded")


def test_a_run_outlives_its_job_and_belongs_to_one_schedule(api: FlaskClient, timeline: Timeline) -> None:
    timeline.create()
    timeline.create(name="other")
    run = api.post(f"{HOURLY}/run").get_json()
    timeline.finish()
    assert api.delete(f"/v1/jobs/{run['job']['id']}").status_code == 204
    read = api.get(f"{HOURLY}/runs/{run['id']}").get_json()
    assert (read["state"], read["job"]) == ("succeeded", None)
    for path in (f"/v1/schedules/other/runs/{run['id']}", f"{HOURLY}/runs/run_{'0' * 26}", f"{HOURLY}/runs/..%2fx"):
        response = api.get(path)
        assert (response.status_code, response.get_json()["code"]) in ((404, "RUN_UNKNOWN"), (404, "NOT_FOUND"))


def test_the_health_follows_the_runs(api: FlaskClient, timeline: Timeline) -> None:
    timeline.create()
    assert health(api)["state"] == "new"
    timeline.pass_time(hours=1)
    timeline.finish()
    [run] = timeline.runs()
    timeline.clock[0] += timedelta(minutes=30)
    assert health(api) == {
        "state": "healthy",
        "last_run": {"id": run.id, "state": "succeeded", "at": "2026-03-02T13:00:00.000Z"},
        "last_success_at": "2026-03-02T13:00:00.000Z",
        "lag_seconds": 1800,
        "consecutive_failures": 0,
        "running": None,
        "queued": None,
    }
    for _ in range(2):
        timeline.pass_time(hours=1)
        timeline.fail()
    found = health(api)
    assert (found["state"], found["consecutive_failures"], found["last_run"]["state"]) == ("failing", 2, "failed")
    timeline.clock[0] += timedelta(hours=1, minutes=6)
    assert health(api)["state"] == "late"
    api.patch(HOURLY, json={"enabled": False})
    assert health(api)["state"] == "disabled"


def test_the_list_is_filtered_by_health(api: FlaskClient, timeline: Timeline) -> None:
    timeline.create()
    timeline.create(name="off", enabled=False)
    timeline.create(name="daily", cron="0 0 * * *")
    timeline.pass_time(hours=1)
    timeline.fail()
    expected = {"failing": ["hourly"], "disabled": ["off"], "new": ["daily"], "late": [], "healthy": []}
    for state, names in expected.items():
        page = api.get(f"/v1/schedules?state={state}").get_json()
        assert ([schedule["name"] for schedule in page["items"]], page["next"]) == (names, None)


def test_readiness_counts_schedules_and_names_those_in_trouble(
    api: FlaskClient, timeline: Timeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readiness, "_SCHEDULES_SECONDS", 0.0)
    monkeypatch.setattr(readiness, "_FRESH", 0.0)
    timeline.core.processes.beat("worker", "idle", name="host:1")
    timeline.create()
    timeline.create(name="off", enabled=False)
    timeline.create(name="daily", cron="0 0 * * *")
    timeline.pass_time(hours=1)
    timeline.fail()
    check = api.get("/readyz?verbose").get_json()["checks"]["schedules"]
    assert check == {
        "status": "ok",
        "warnings": ["1 of the schedules is failing: hourly (1 failure, no success yet)"],
        "schedules": {"disabled": 1, "new": 1, "healthy": 0, "failing": 1, "late": 0},
    }
    timeline.clock[0] += timedelta(days=3)
    response = api.get("/readyz?verbose")
    check = response.get_json()["checks"]["schedules"]
    assert check["warnings"] == ["2 of the schedules are late: hourly (due 2 d ago), daily (due 2 d ago)"]
    assert response.status_code == 200
    assert api.get("/readyz").get_json()["checks"]["schedules"] == {"status": "ok"}


def test_a_page_of_a_hundred_schedules_takes_few_round_trips(
    api: FlaskClient, timeline: Timeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    for n in range(120):
        timeline.create(name=f"s{n}")
    sent: list[str] = []
    call, calls = Redis.call, Redis.calls

    def counted_call(redis: Redis, *command: str | float) -> Any:
        sent.append("call")
        return call(redis, *command)

    def counted_calls(redis: Redis, *args: Any, **kwargs: Any) -> Any:
        sent.append("calls")
        return calls(redis, *args, **kwargs)

    monkeypatch.setattr(Redis, "call", counted_call)
    monkeypatch.setattr(Redis, "calls", counted_calls)
    page = api.get("/v1/schedules?limit=100").get_json()
    assert len(page["items"]) == 100
    assert sent == ["calls"]  # and one script, which lists what there is
    sent.clear()
    assert api.get("/v1/schedules?limit=100&state=late").get_json() == {"items": [], "next": None}
    assert len(sent) <= 1


def test_a_preview_shows_the_offset_of_each_time(api: FlaskClient, timeline: Timeline) -> None:
    timeline.create(cron="30 2 * * *", time_zone="Europe/Paris")
    timeline.clock[0] = datetime(2026, 3, 28, 12, 0, tzinfo=UTC)
    assert api.get(f"{HOURLY}/preview?n=2").get_json() == {
        "time_zone": "Europe/Paris",
        "description": "At 02:30 every day",
        "times": [
            {
                "slot": "2026-03-29T01:00:00.000Z",
                "local": "2026-03-29T03:00:00+02:00",
                "starts_at": "2026-03-29T01:00:00.000Z",
            },
            {
                "slot": "2026-03-30T00:30:00.000Z",
                "local": "2026-03-30T02:30:00+02:00",
                "starts_at": "2026-03-30T00:30:00.000Z",
            },
        ],
    }
    assert len(api.get(f"{HOURLY}/preview").get_json()["times"]) == 10


def test_a_preview_knows_when_runs_with_jitter_start(api: FlaskClient, timeline: Timeline) -> None:
    schedule = timeline.create(every="6h", cron=None, jitter="1h")
    first = api.get(f"{HOURLY}/preview?n=1").get_json()
    assert first["description"] == "Every 6 hours"
    [time] = first["times"]
    assert time["slot"] == "2026-03-02T18:00:00.000Z"
    assert schedule.next_run_at is not None
    assert time["starts_at"] == schedule.next_run_at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    shown = api.get(HOURLY).get_json()["next_run"]
    assert shown == {"slot": time["slot"], "starts_at": time["starts_at"]}


def test_times_that_are_not_stored_are_previewed(api: FlaskClient, timeline: Timeline) -> None:
    preview = "/v1/schedules/preview"
    times = api.post(f"{preview}?n=1", json={"every": "90m"}).get_json()
    [time] = times["times"]
    assert (times["description"], time["slot"], time["starts_at"]) == (
        "Every 90 minutes",
        *["2026-03-02T13:30:00.000Z"] * 2,
    )
    whole = {"name": "!", "cron": "@hourly", "jitter": "10m", "job": {"source": 7}}
    [time] = api.post(f"{preview}?n=1", json=whole).get_json()["times"]
    assert (time["local"], time["starts_at"]) == ("2026-03-02T13:00:00+00:00", None)
    for body, pointer in (
        ({"cron": "0 0 31 2 *"}, "/cron"),
        ({}, "/cron"),
        ({"cron": "@daily", "time_zone": "Mars/Base"}, "/time_zone"),
        ({"crom": "@daily"}, "/crom"),
    ):
        assert pointer in {error["pointer"] for error in errors_of(api.post(preview, json=body))}
    for n in ("0", "101", "ten"):
        assert errors_of(api.post(f"{preview}?n={n}", json={"cron": "@daily"}))[0]["parameter"] == "n"
    assert api.get("/v1/schedules").get_json()["items"] == []


def test_a_changed_job_runs_once_if_the_schedule_says_so(api: FlaskClient, timeline: Timeline) -> None:
    body = {"name": "hourly", "cron": "0 * * * *", "run_on_change": True, "job": {"source": "redis:7"}}
    assert api.put(HOURLY, json=body).get_json()["health"]["running"] is not None
    assert [run.reason for run in timeline.runs()] == ["changed"]
    timeline.finish()
    api.put(HOURLY, json={**body, "labels": {"a": "b"}})
    api.put(HOURLY, json={**body, "job": {"source": "redis:8"}})
    assert [run.reason for run in timeline.runs()] == ["changed", "changed"]


def test_a_schedule_that_vanished_from_redis_is_unknown(api: FlaskClient, timeline: Timeline) -> None:
    schedule = timeline.create()
    timeline.core.redis.call("DEL", keys.schedule(schedule.id))
    assert api.get(HOURLY).status_code == 404
    assert api.get("/v1/schedules").get_json()["items"] == []
