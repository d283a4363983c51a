"""``POST /v1/jobs`` queues the tasks of a job. Its answer shows the job."""

from __future__ import annotations

import pytest
from flask.testing import FlaskClient

from mirror.records.job import PRIORITIES
from mirror.wiring import Core
from tests.api.job_requests import COUNTS, MOMENT, post


def test_a_posted_job_is_queued_and_says_where_to_watch_it(api: FlaskClient, core: Core) -> None:
    response = api.post("/v1/jobs", json={"source": "alpine:3.20", "target": "library/alpine:3.20"})

    assert response.status_code == 202
    job = response.get_json()
    assert response.headers["Location"] == f"https://mirror.example:8443/v1/jobs/{job['id']}"
    assert response.headers["Retry-After"] == "2"
    [task] = job.pop("tasks")
    assert core.queue.holds(task["id"], 0)
    assert MOMENT.fullmatch(job.pop("created_at"))
    assert job == {
        "id": job["id"],
        "state": "queued",
        "attempt": 1,
        "source": "docker.io/library/alpine:3.20",
        "target": "library/alpine:3.20",
        "kind": "mirror",
        "priority": "normal",
        "on_error": "continue",
        "atomic": False,
        "request": {
            "source": "docker.io/library/alpine:3.20",
            "target": "library/alpine:3.20",
            "platforms": {"mode": "all"},
            "overwrite": "if-different",
            "referrers": True,
            "foreign_layers": "when-held",
            "signature": None,
            "immutable": [],
            "on_move_upstream": "follow",
        },
        "listed": 0,
        "selected": 0,
        "release_window": None,
        "digest": None,
        "source_digest": None,
        "digest_preserved": None,
        "images": COUNTS,
        "bytes": {"total": 0, "copied": 0, "skipped": 0},
        "foreign_layers": {"copied": 0, "left_out": 0},
        "referrers": {"copied": 0, "unchanged": 0, "left_out": 0},
        "warnings": [],
        "waiting_for": None,
        "error": None,
        "superseded_by": None,
        "cancel_requested_at": None,
        "started_at": None,
        "finished_at": None,
        "run": None,
        "links": {
            "self": response.headers["Location"],
            "tasks": f"{response.headers['Location']}/tasks",
            "cancel": f"{response.headers['Location']}/cancel",
        },
    }
    assert (task["source"], task["target"], task["blobs"]) == (job["source"], job["target"], [])


@pytest.mark.parametrize("priority", PRIORITIES)
def test_the_tasks_of_a_job_are_queued_by_its_priority(api: FlaskClient, core: Core, priority: str) -> None:
    job = api.post("/v1/jobs", json={"source": "alpine", "priority": priority, "on_error": "abort"}).get_json()
    assert (job["priority"], job["on_error"]) == (priority, "abort")
    assert core.queue.page(0, 9) == [(job["tasks"][0]["id"], 0, priority)]


def test_a_job_of_several_images_has_its_names_in_its_tasks(api: FlaskClient, core: Core) -> None:
    wanted = [{"source": "alpine:3.20"}, {"source": "redis", "target": "team/redis"}, {"source": "alpine:3.21"}]
    response = api.post("/v1/jobs", json={"images": wanted})
    assert response.status_code == 202, response.json
    job = response.get_json()
    assert (job["source"], job["target"], job["state"]) == (None, None, "queued")
    assert job["images"] == {**COUNTS, "total": 3}
    assert [(task["source"], task["target"]) for task in job["tasks"]] == [
        ("docker.io/library/alpine:3.20", "docker.io/library/alpine:3.20"),
        ("docker.io/library/redis:latest", "team/redis:latest"),
        ("docker.io/library/alpine:3.21", "docker.io/library/alpine:3.21"),
    ]
    assert all(core.queue.holds(task["id"], 0) for task in job["tasks"])
    assert api.get(f"/v1/jobs/{job['id']}").get_json() == job
    for source in ("alpine:3.20", "redis", "alpine:3.21"):
        assert [found["id"] for found in api.get(f"/v1/jobs?source={source}").get_json()["items"]] == [job["id"]]


def test_the_body_is_read_as_json_when_curl_calls_it_a_form(api: FlaskClient) -> None:
    body = '{"source": "docker.io/library/alpine:3.20", "target": "library/alpine:3.20"}'
    response = api.post("/v1/jobs", data=body, content_type="application/x-www-form-urlencoded")
    assert response.status_code == 202
    assert response.get_json()["target"] == "library/alpine:3.20"


def test_links_do_not_follow_the_host_header(api: FlaskClient) -> None:
    response = api.post(
        "/v1/jobs", json={"source": "redis"}, headers={"Host": "evil.example", "X-Forwarded-Host": "evil.example"}
    )
    assert "evil" not in response.get_data(as_text=True) + str(response.headers)


def test_a_repository_is_expanded_and_its_answer_repeats_the_rules(api: FlaskClient) -> None:
    rules = {"semver": ">=3.18 <4", "deny": [{"glob": "*-rc*"}], "latest": {"count": 3}, "min_age": "3d"}
    platforms = {"only": ["linux/amd64", "linux/arm64/v8"], "mode": "sparse"}
    job = post(api, "alpine", tags=rules, platforms=platforms, target="team/{name}:{tag}", overwrite="never")
    assert (job["source"], job["target"], job["images"]["total"]) == ("docker.io/library/alpine", None, 1)
    assert job["request"] == {
        "source": "docker.io/library/alpine",
        "tags": {
            "semver": ">=3.18 <4",
            "deny": [{"glob": "*-rc*"}],
            "latest": {"count": 3, "by": "semver"},
            "min_age": "72h",
        },
        "target": [{"template": "team/{name}:{tag}"}],
        "platforms": platforms,
        "overwrite": "never",
        "referrers": True,
        "foreign_layers": "when-held",
        "signature": None,
        "immutable": [],
        "on_move_upstream": "follow",
    }
    [task] = job["tasks"]
    assert (task["kind"], task["selection"], task["request"]) == ("expand", None, job["request"])


@pytest.mark.parametrize("source", [{"repository": "alpine"}, "bitnami/*"])
def test_a_repository_or_a_wildcard_without_rules_means_all_tags(api: FlaskClient, source: object) -> None:
    job = api.post("/v1/jobs", json={"source": source}).get_json()
    assert job["request"]["tags"] == {}
    assert job["tasks"][0]["kind"] == "expand"
