"""Canceling and retrying jobs over the API."""

from __future__ import annotations

from typing import Any

import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from mirror.records.claims import Claim, Outcome
from mirror.records.states import JobState
from mirror.records.task import ErrorReport, WaitingFor
from mirror.redis import keys
from mirror.wiring import Core
from service.app import create_app
from service.core import Service
from tests.api.conftest import TOKEN
from tests.support.records import Records

ERROR = ErrorReport("MANIFEST_UNKNOWN", "The source has no image", retryable=False, hint="Look there.")


def posted(api: FlaskClient, source: str = "alpine:3.20") -> str:
    response = api.post("/v1/jobs", json={"source": source})
    assert response.status_code == 202
    return str(response.get_json()["id"])


def claimed(core: Core, job_id: str) -> Claim:
    [task] = core.jobs.tasks(job_id, 1)
    claim = Records.of(core).claim(task.id, task.fence)
    assert claim
    return claim


def ended(core: Core, job_id: str, state: JobState) -> None:
    Records.of(core).settle(claimed(core, job_id), state, Outcome(error=ERROR if state == "failed" else None))


def accepted(response: TestResponse) -> dict[str, Any]:
    assert (response.status_code, response.headers["Retry-After"]) == (202, "2"), response.json
    return dict(response.get_json())


def refused(response: TestResponse) -> tuple[int, str]:
    assert response.mimetype == "application/problem+json"
    problem = response.get_json()
    assert problem["status"] == response.status_code
    assert problem["hint"]
    return response.status_code, problem["code"]


def test_a_queued_job_is_canceled_in_the_answer_already(api: FlaskClient, core: Core) -> None:
    job_id = posted(api)
    job = accepted(api.post(f"/v1/jobs/{job_id}/cancel"))
    assert (job["id"], job["state"], job["images"]["canceled"]) == (job_id, "canceled", 1)
    assert (job["tasks"][0]["state"], job["error"]) == ("canceled", None)
    assert job["finished_at"] == job["cancel_requested_at"] is not None
    own = job["links"]["self"]
    assert job["links"] == {"self": own, "tasks": f"{own}/tasks", "retry": f"{own}/retry"}
    assert job == api.get(f"/v1/jobs/{job_id}").get_json()
    assert [found["id"] for found in api.get("/v1/jobs?state=canceled").get_json()["items"]] == [job_id]
    [task] = core.jobs.tasks(job_id, 1)
    assert Records.of(core).claim(task.id, 0) is None


def test_a_parked_job_is_canceled_and_waits_for_nothing(api: FlaskClient, core: Core) -> None:
    job_id = posted(api)
    reason = WaitingFor("rate_limited", "2026-11-23T22:00:00Z", "docker.io")
    core.claims.release(claimed(core, job_id), wait=60, waiting_for=reason)
    job = accepted(api.post(f"/v1/jobs/{job_id}/cancel"))
    assert (job["state"], job["waiting_for"], job["tasks"][0]["waiting_for"]) == ("canceled", None, None)


def test_a_running_job_says_that_it_is_to_end_and_ends_with_its_worker(api: FlaskClient, core: Core) -> None:
    job_id = posted(api)
    claim = claimed(core, job_id)
    job = accepted(api.post(f"/v1/jobs/{job_id}/cancel"))
    assert (job["state"], job["images"]["running"]) == ("running", 1)
    assert job["cancel_requested_at"] is not None
    Records.of(core).settle(claim, "canceled", Outcome())
    assert api.get(f"/v1/jobs/{job_id}").get_json()["state"] == "canceled"


def test_canceling_twice_is_canceling_once(api: FlaskClient, core: Core) -> None:
    running, queued = posted(api, "alpine:1"), posted(api, "alpine:2")
    claimed(core, running)
    for job_id in (running, queued):
        first = accepted(api.post(f"/v1/jobs/{job_id}/cancel"))
        assert accepted(api.post(f"/v1/jobs/{job_id}/cancel")) == first


@pytest.mark.parametrize("state", ["succeeded", "failed"])
def test_a_job_that_has_ended_cannot_be_canceled(api: FlaskClient, core: Core, state: JobState) -> None:
    job_id = posted(api)
    ended(core, job_id, state)
    before = api.get(f"/v1/jobs/{job_id}").get_json()
    assert "cancel" not in before["links"]
    assert refused(api.post(f"/v1/jobs/{job_id}/cancel")) == (409, "JOB_FINISHED")
    assert api.get(f"/v1/jobs/{job_id}").get_json() == before


@pytest.mark.parametrize("state", ["failed", "canceled"])
def test_a_job_that_did_not_succeed_is_queued_again(api: FlaskClient, core: Core, state: JobState) -> None:
    job_id = posted(api)
    if state == "failed":
        ended(core, job_id, "failed")
    else:
        api.post(f"/v1/jobs/{job_id}/cancel")
    response = api.post(f"/v1/jobs/{job_id}/retry")
    job = accepted(response)
    assert response.headers["Location"] == f"https://mirror.example:8443/v1/jobs/{job_id}" == job["links"]["self"]
    assert (job["id"], job["state"], job["attempt"], job["error"]) == (job_id, "queued", 2, None)
    assert (job["finished_at"], job["cancel_requested_at"]) == (None, None)
    assert (job["tasks"][0]["attempt"], job["tasks"][0]["error"], job["tasks"][0]["blobs"]) == (2, None, [])
    assert set(job["links"]) == {"self", "tasks", "cancel"}
    [task] = core.jobs.tasks(job_id, 1)
    assert core.queue.holds(task.id, task.fence)
    assert claimed(core, job_id).task.state == "running"


def test_a_retry_is_accepted_without_a_queue_entry(api: FlaskClient, core: Core) -> None:
    """Should the entry be lost, the reconciler misses it: the record is the truth."""
    job_id = posted(api)
    ended(core, job_id, "failed")
    accepted(api.post(f"/v1/jobs/{job_id}/retry"))
    [task] = core.jobs.tasks(job_id, 1)
    core.redis.call("DEL", f"{keys.RQ_PREFIX}:queue:tasks")
    assert core.recovery.queued_since(-1) == [task.id]


def test_a_job_that_is_under_way_is_not_retried(api: FlaskClient, core: Core) -> None:
    job_id = posted(api)
    assert refused(api.post(f"/v1/jobs/{job_id}/retry")) == (409, "JOB_UNFINISHED")
    claimed(core, job_id)
    assert refused(api.post(f"/v1/jobs/{job_id}/retry")) == (409, "JOB_UNFINISHED")


def test_retrying_twice_is_refused(api: FlaskClient, core: Core) -> None:
    job_id = posted(api)
    ended(core, job_id, "failed")
    accepted(api.post(f"/v1/jobs/{job_id}/retry"))
    assert refused(api.post(f"/v1/jobs/{job_id}/retry")) == (409, "JOB_UNFINISHED")
    assert api.get(f"/v1/jobs/{job_id}").get_json()["attempt"] == 2


def test_a_job_that_succeeded_is_not_retried(api: FlaskClient, core: Core) -> None:
    job_id = posted(api)
    ended(core, job_id, "succeeded")
    assert refused(api.post(f"/v1/jobs/{job_id}/retry")) == (409, "JOB_SUCCEEDED")
    assert set(api.get(f"/v1/jobs/{job_id}").get_json()["links"]) == {"self", "tasks"}


@pytest.mark.parametrize("step", ["cancel", "retry"])
def test_an_unknown_job_is_404(api: FlaskClient, step: str) -> None:
    assert refused(api.post(f"/v1/jobs/job_none/{step}")) == (404, "JOB_UNKNOWN")


@pytest.mark.parametrize("step", ["cancel", "retry"])
def test_without_the_token_nothing_happens(api: FlaskClient, anyone: FlaskClient, step: str) -> None:
    job_id = posted(api)
    assert refused(anyone.post(f"/v1/jobs/{job_id}/{step}")) == (401, "UNAUTHORIZED")
    assert api.get(f"/v1/jobs/{job_id}").get_json()["state"] == "queued"


@pytest.mark.parametrize("step", ["cancel", "retry"])
def test_only_post_changes_a_job(api: FlaskClient, step: str) -> None:
    job_id = posted(api)
    response = api.get(f"/v1/jobs/{job_id}/{step}")
    assert refused(response) == (405, "METHOD_NOT_ALLOWED")
    assert "POST" in response.headers["Allow"]


@pytest.mark.parametrize("step", ["cancel", "retry"])
def test_an_option_that_does_not_exist_changes_nothing(api: FlaskClient, step: str) -> None:
    job_id = posted(api)
    assert refused(api.post(f"/v1/jobs/{job_id}/{step}?force=true")) == (422, "REQUEST_INVALID")
    assert api.get(f"/v1/jobs/{job_id}").get_json()["state"] == "queued"


@pytest.mark.parametrize("step", ["", "/cancel", "/retry"])
@pytest.mark.parametrize("suffix", [":tasks", "%00", "%0a"])
def test_an_id_that_names_another_key_is_an_unknown_job(api: FlaskClient, step: str, suffix: str) -> None:
    response = api.open(f"/v1/jobs/{posted(api)}{suffix}{step}", method="POST" if step else "GET")
    assert refused(response) == (404, "JOB_UNKNOWN")


def test_a_body_is_not_needed_and_not_in_the_way(service: Service) -> None:
    client = create_app(service).test_client()
    client.environ_base["HTTP_AUTHORIZATION"] = f"Bearer {TOKEN}"
    for body in (b"", b"{}"):
        assert client.post(f"/v1/jobs/{posted(client)}/cancel", data=body).status_code == 202
