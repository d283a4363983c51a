from __future__ import annotations

import base64
import re
from typing import Any

import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from mirror.copying.ports import PlannedBlob
from mirror.jobs.progress import TaskProgress
from mirror.oci.descriptor import Descriptor
from mirror.oci.digest import Digest
from mirror.records.claims import Outcome
from mirror.records.job import PRIORITIES, ByteCounts
from mirror.records.task import BlobReport, ErrorReport, Skipped, WaitingFor
from mirror.wiring import Core
from tests.support.records import Records

MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
DIGEST = f"sha256:{'ab' * 32}"
ALLOWED = "source, target, tags, platforms, overwrite, immutable, referrers, foreign_layers, signature"
ALL_ALLOWED = f"{ALLOWED}, images, plan, priority, on_error, atomic"
COUNTS = {"total": 1, "succeeded": 0, "failed": 0, "canceled": 0, "unchanged": 0, "skipped": 0, "running": 0}


def post(api: FlaskClient, source: str, **fields: Any) -> dict[str, Any]:
    response = api.post("/v1/jobs", json={"source": source, **fields})
    assert response.status_code == 202, response.json
    return dict(response.get_json())


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


def test_the_job_shows_twenty_tasks_and_their_list_all_in_pages(api: FlaskClient) -> None:
    response = api.post("/v1/jobs", json={"images": [{"source": f"alpine:{n}"} for n in range(45)]})
    job = response.get_json()
    assert len(job["tasks"]) == 20
    seen: list[str] = []
    url = f"{job['links']['tasks']}?limit=20".removeprefix("https://mirror.example:8443")
    while url:
        response = api.get(url)
        assert response.status_code == 200, response.json
        seen += [task["source"] for task in response.get_json()["items"]]
        link = response.headers.get("Link", "")
        assert bool(link) == (response.get_json()["next"] is not None)
        url = link.partition(";")[0].strip("<>").removeprefix("https://mirror.example:8443")
    assert seen == [f"docker.io/library/alpine:{n}" for n in range(45)]


def test_the_tasks_of_an_unknown_job_are_404(api: FlaskClient) -> None:
    response = api.get("/v1/jobs/job_none/tasks")
    assert (response.status_code, response.get_json()["code"]) == (404, "JOB_UNKNOWN")


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


def test_a_running_job_shows_the_progress_of_every_blob(api: FlaskClient, core: Core) -> None:
    job_id = post(api, "alpine:3.20")["id"]
    [task] = core.jobs.tasks(job_id, 1)
    claim = Records.of(core).claim(task.id, task.fence)
    assert claim
    blobs = [
        BlobReport(DIGEST, 100, "copying", copied=40),
        BlobReport("sha256:" + "cd" * 32, 50, "failed", reason="x", code="BLOB_UNKNOWN"),
    ]
    core.claims.progress(claim, list(enumerate(blobs)), ByteCounts(100, 40, 0), digest=DIGEST, checkpoints=0)

    job = api.get(f"/v1/jobs/{job_id}").get_json()
    assert (job["state"], job["digest"], job["bytes"]["copied"]) == ("running", DIGEST, 40)
    assert MOMENT.fullmatch(job["started_at"])
    assert job["tasks"][0]["blobs"] == [
        {"digest": DIGEST, "size": 100, "copied": 40, "state": "copying", "reason": None, "code": None},
        {
            "digest": "sha256:" + "cd" * 32,
            "size": 50,
            "copied": 0,
            "state": "failed",
            "reason": "x",
            "code": "BLOB_UNKNOWN",
        },
    ]


def test_an_image_of_very_many_blobs_is_shown_in_part_and_its_blobs_in_pages(api: FlaskClient, core: Core) -> None:
    job_id = post(api, "alpine:3.20")["id"]
    [task] = core.jobs.tasks(job_id, 1)
    claim = Records.of(core).claim(task.id, task.fence)
    assert claim
    reporter = TaskProgress(core.claims, claim)
    digests = [Digest.of(str(number).encode()) for number in range(50_000)]
    reporter.planned([PlannedBlob(Descriptor("application/x", digest, 10), "waiting") for digest in digests])
    reporter.advanced(digests[-1], "failed")
    reporter.flush()

    response = api.get(f"/v1/jobs/{job_id}")
    assert len(response.get_data()) < 64 * 1024
    job = response.get_json()
    [shown] = job["tasks"]
    assert job["bytes"]["total"] == 500_000
    assert len(shown["blobs"]) == 100
    assert (shown["blobs"][0]["digest"], shown["blobs"][0]["state"]) == (str(digests[-1]), "failed")
    nothing = dict.fromkeys(["copying", "verifying", "copied", "exists", "skipped"], 0)
    assert shown["blob_counts"] == {"total": 50_000, "waiting": 49_999, "failed": 1, **nothing}
    assert shown["links"]["blobs"] == f"https://mirror.example:8443/v1/jobs/{job_id}/tasks/{task.id}/blobs"

    seen: list[str] = []
    url = f"{shown['links']['blobs']}?limit=100".removeprefix("https://mirror.example:8443")
    while url:
        response = api.get(url)
        assert response.status_code == 200, response.json
        seen += [blob["digest"] for blob in response.get_json()["items"]]
        link = response.headers.get("Link", "")
        assert bool(link) == (response.get_json()["next"] is not None)
        url = link.partition(";")[0].strip("<>").removeprefix("https://mirror.example:8443")
    assert seen == [str(digest) for digest in digests[:1_000]]


def test_a_task_whose_blobs_are_not_known_yet_has_none_to_count(api: FlaskClient) -> None:
    job = post(api, "alpine:3.20")
    [task] = job["tasks"]
    assert (task["blobs"], task["blob_counts"]) == ([], None)
    blobs = f"/v1/jobs/{job['id']}/tasks/{task['id']}/blobs"
    assert api.get(blobs).get_json() == {"items": [], "next": None}
    for cursor in ("-1", "x", "99999", "01", "1\n"):
        encoded = base64.urlsafe_b64encode(cursor.encode()).decode().rstrip("=")
        assert [error["parameter"] for error in errors_of(api.get(f"{blobs}?cursor={encoded}"))] == ["cursor"]


@pytest.mark.parametrize("task_id", ["task_none", "task_01JDB2V3R8Y0N5Q7T9W1X3Z5B8", "x"])
def test_the_blobs_of_an_unknown_task_are_404(api: FlaskClient, task_id: str) -> None:
    job_id = post(api, "alpine:3.20")["id"]
    response = api.get(f"/v1/jobs/{job_id}/tasks/{task_id}/blobs")
    assert (response.status_code, response.get_json()["code"]) == (404, "TASK_UNKNOWN")
    response = api.get(f"/v1/jobs/job_none/tasks/{task_id}/blobs")
    assert (response.status_code, response.get_json()["code"]) == (404, "JOB_UNKNOWN")


def test_a_parked_job_says_what_it_waits_for(api: FlaskClient, core: Core) -> None:
    job_id = post(api, "alpine:3.20")["id"]
    [task] = core.jobs.tasks(job_id, 1)
    claim = Records.of(core).claim(task.id, task.fence)
    assert claim
    reason = WaitingFor("rate_limited", "2026-11-23T22:00:00Z", "docker.io", "it asks us to wait 60 s")
    core.claims.release(claim, wait=60, waiting_for=reason)
    expected = {
        "reason": "rate_limited",
        "registry": "docker.io",
        "until": "2026-11-23T22:00:00Z",
        "message": "it asks us to wait 60 s",
    }
    job = api.get(f"/v1/jobs/{job_id}").get_json()
    assert job["waiting_for"] == expected == job["tasks"][0]["waiting_for"]


def test_a_failed_job_says_why_and_what_to_do(api: FlaskClient, core: Core) -> None:
    job_id = post(api, "alpine:3.20")["id"]
    [task] = core.jobs.tasks(job_id, 1)
    claim = Records.of(core).claim(task.id, task.fence)
    assert claim
    error = ErrorReport("MANIFEST_UNKNOWN", "The source has no image", retryable=False, hint="Look there.")
    Records.of(core).settle(claim, "failed", Outcome(error=error))
    job = api.get(f"/v1/jobs/{job_id}").get_json()
    assert job["state"] == "failed"
    assert job["tasks"][0]["error"] == error.fields()
    assert MOMENT.fullmatch(job["finished_at"])


def test_an_unknown_job_is_404(api: FlaskClient) -> None:
    response = api.get("/v1/jobs/job_none")
    assert (response.status_code, response.get_json()["code"]) == (404, "JOB_UNKNOWN")


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


def errors_of(response: TestResponse) -> list[dict[str, str]]:
    assert response.status_code == 422, response.get_data()
    problem = response.get_json()
    assert problem["code"] == "REQUEST_INVALID"
    return list(problem["errors"])


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


def test_jobs_are_paged_from_the_newest(api: FlaskClient) -> None:
    posted = [post(api, f"alpine:{n}")["id"] for n in range(5)]
    seen: list[str] = []
    url = "/v1/jobs?limit=2"
    while url:
        response = api.get(url)
        page = response.get_json()
        seen += [job["id"] for job in page["items"]]
        assert all("tasks" not in job for job in page["items"])
        link = response.headers.get("Link", "")
        assert bool(link) == (page["next"] is not None)
        url = link.partition(";")[0].strip("<>").removeprefix("https://mirror.example:8443")
        assert not link or (link.endswith('>; rel="next"') and f"cursor={page['next']}" in link)
    assert seen == posted[::-1]


def test_jobs_are_found_by_state_and_by_any_spelling_of_their_source(api: FlaskClient, core: Core) -> None:
    done, waiting = post(api, "redis")["id"], post(api, "redis")["id"]
    post(api, "alpine")
    [task] = core.jobs.tasks(done, 1)
    claim = Records.of(core).claim(task.id, task.fence)
    assert claim
    Records.of(core).settle(claim, "succeeded", Outcome(digest=DIGEST))

    def found(query: str) -> list[str]:
        return [job["id"] for job in api.get(f"/v1/jobs?{query}").get_json()["items"]]

    assert found("source=docker.io/library/redis:latest") == [waiting, done] == found("source=redis")
    assert found("state=succeeded") == [done] == found("state=succeeded&source=redis")
    assert found("state=failed") == []


@pytest.mark.parametrize(
    ("query", "parameter"),
    [
        ("limit=0", "limit"),
        ("limit=101", "limit"),
        ("limit=x", "limit"),
        ("cursor=%00", "cursor"),
        ("cursor=", "cursor"),
        ("cursor=YQ==", "cursor"),
        ("cursor=AAAA", "cursor"),
        ("state=done", "state"),
        ("sate=failed", "sate"),
    ],
)
def test_a_wrong_parameter_is_named(api: FlaskClient, query: str, parameter: str) -> None:
    assert [error["parameter"] for error in errors_of(api.get(f"/v1/jobs?{query}"))] == [parameter]


def test_a_malformed_source_filter_is_422(api: FlaskClient) -> None:
    response = api.get("/v1/jobs?source=A%20b")
    assert (response.status_code, response.get_json()["code"]) == (422, "NAME_INVALID")


def test_a_queued_job_says_that_no_worker_is_there_to_do_it(api: FlaskClient, core: Core) -> None:
    core.processes.leave("worker", name="host:1")
    posted = post(api, "alpine:3.20")
    job = api.get(f"/v1/jobs/{posted['id']}").get_json()
    [listed] = api.get("/v1/jobs").get_json()["items"]
    for shown in (posted, job, listed, posted["tasks"][0], job["tasks"][0]):
        assert shown["waiting_for"]["reason"] == "no_worker"
        assert (shown["waiting_for"]["until"], shown["waiting_for"]["registry"]) == (None, None)
        assert "No worker is alive: none has been seen lately" in shown["waiting_for"]["message"]
    core.processes.beat("worker", "copying", name="host:7")
    assert api.get(f"/v1/jobs/{posted['id']}").get_json()["waiting_for"] is None


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
    }
    [task] = job["tasks"]
    assert (task["kind"], task["selection"], task["request"]) == ("expand", None, job["request"])


@pytest.mark.parametrize("source", [{"repository": "alpine"}, "bitnami/*"])
def test_a_repository_or_a_wildcard_without_rules_means_all_tags(api: FlaskClient, source: object) -> None:
    job = api.post("/v1/jobs", json={"source": source}).get_json()
    assert job["request"]["tags"] == {}
    assert job["tasks"][0]["kind"] == "expand"


def test_jobs_are_found_by_the_repository_that_they_expand(api: FlaskClient) -> None:
    job = post(api, "alpine", tags={})
    post(api, "alpine")
    found = api.get("/v1/jobs?repository=library/alpine").get_json()["items"]
    assert [one["id"] for one in found] == [job["id"]]
    assert errors_of(api.get("/v1/jobs?repository=alpine&source=alpine")) == [
        {"parameter": "repository", "detail": "Not beside 'source'."}
    ]


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


def test_a_skipped_image_is_counted_and_says_why(api: FlaskClient, core: Core) -> None:
    posted = post(api, "redis:7", overwrite="never")
    records, [task] = Records.of(core), posted["tasks"]
    assert (task["skipped"], posted["request"]["overwrite"]) == (None, "never")
    claim = records.claim(task["id"], 0)
    assert claim
    skipped = Skipped("exists", "The target exists")
    assert records.settle(claim, "succeeded", Outcome(DIGEST, skipped=skipped))
    job = api.get(f"/v1/jobs/{posted['id']}").get_json()
    assert job["images"] == {**COUNTS, "succeeded": 1, "skipped": 1}
    assert job["tasks"][0]["skipped"] == {"reason": "exists", "message": "The target exists"}
    assert job["tasks"][0]["unchanged"] is False


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
