"""A job, its tasks and their blobs are read, and jobs are listed and found."""

from __future__ import annotations

import base64

import pytest
from flask.testing import FlaskClient

from mirror.copying.ports import PlannedBlob
from mirror.jobs.progress import TaskProgress
from mirror.oci.descriptor import Descriptor
from mirror.oci.digest import Digest
from mirror.records.claims import Outcome
from mirror.records.job import ByteCounts
from mirror.records.task import BlobReport, ErrorReport, Skipped, WaitingFor
from mirror.wiring import Core
from tests.api.job_requests import COUNTS, MOMENT, errors_of, post
from tests.support.records import Records

DIGEST = f"sha256:{'ab' * 32}"


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


def test_jobs_are_found_by_the_repository_that_they_expand(api: FlaskClient) -> None:
    job = post(api, "alpine", tags={})
    post(api, "alpine")
    found = api.get("/v1/jobs?repository=library/alpine").get_json()["items"]
    assert [one["id"] for one in found] == [job["id"]]
    assert errors_of(api.get("/v1/jobs?repository=alpine&source=alpine")) == [
        {"parameter": "repository", "detail": "Not beside 'source'."}
    ]


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
    digests = {"digest": None, "source_digest": None}
    assert job["tasks"][0]["skipped"] == {"reason": "exists", "message": "The target exists", **digests}
    assert job["tasks"][0]["unchanged"] is False


def test_a_tag_that_its_source_moved_is_skipped_with_both_digests(api: FlaskClient, core: Core) -> None:
    posted = post(api, "redis:7", on_move_upstream="report")
    records, [task] = Records.of(core), posted["tasks"]
    claim = records.claim(task["id"], 0)
    assert claim
    keeps, now = DIGEST, "sha256:" + "b" * 64
    skipped = Skipped("moved", "The source has moved", keeps, now)
    assert records.settle(claim, "succeeded", Outcome(keeps, now, skipped=skipped))
    job = api.get(f"/v1/jobs/{posted['id']}").get_json()
    assert job["request"]["on_move_upstream"] == "report"
    assert job["images"] == {**COUNTS, "succeeded": 1, "skipped": 1}
    assert (job["digest"], job["source_digest"], job["digest_preserved"]) == (keeps, now, None)
    shown = {"reason": "moved", "message": "The source has moved", "digest": keeps, "source_digest": now}
    assert job["tasks"][0]["skipped"] == shown
