"""Jobs of ten thousand images over the API, and deleting jobs."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import urllib3
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from mirror.records.claims import Outcome
from mirror.records.job_request import MOST_IMAGES
from mirror.records.states import FAIR_SHARE, WINDOW
from mirror.redis import keys
from mirror.wiring import Core
from service.api.jobs.document import INLINE_TASKS
from tests.api.live_service import LiveService
from tests.support.records import Records
from tests.support.servers import RcloneS3, ValkeyServer


def images(count: int) -> dict[str, Any]:
    return {"images": [{"source": f"registry.example.com/team/app{n}:1.{n}"} for n in range(count)]}


def refused(response: TestResponse) -> tuple[int, str]:
    problem = response.get_json()
    return response.status_code, problem["code"]


def test_ten_thousand_images_are_accepted_listed_canceled_and_deleted(api: FlaskClient, core: Core) -> None:
    posted = api.post("/v1/jobs", json=images(MOST_IMAGES))
    job = posted.get_json()
    assert (posted.status_code, job["images"]["total"], len(job["tasks"])) == (202, MOST_IMAGES, INLINE_TASKS)
    assert [len(lane) for lane in (core.queue.lanes["normal"], core.queue.lanes["normal-bulk"])] == [
        FAIR_SHARE,
        WINDOW - FAIR_SHARE,
    ]
    page = api.get(f"/v1/jobs/{job['id']}/tasks?limit=100").get_json()
    assert [task["source"] for task in page["items"]] == [image["source"] for image in images(100)["images"]]
    canceled = api.post(f"/v1/jobs/{job['id']}/cancel").get_json()
    assert (canceled["state"], canceled["images"]["canceled"]) == ("canceled", MOST_IMAGES)
    deleted = api.delete(f"/v1/jobs/{job['id']}")
    assert (deleted.status_code, deleted.get_data()) == (204, b"")
    assert refused(api.get(f"/v1/jobs/{job['id']}")) == (404, "JOB_UNKNOWN")
    assert api.get("/v1/jobs").get_json()["items"] == []
    assert [name for name in core.redis.call("KEYS", "mirror:*") if ":job:" in name or ":task:" in name] == [
        name for name in core.redis.call("KEYS", f"{keys.RQ_PREFIX}:*") if ":job:" in name
    ]


def test_other_requests_are_served_while_a_large_one_is_read(
    tmp_path: Path, valkey: ValkeyServer, rclone_s3: RcloneS3, s3_prefix: str
) -> None:
    with LiveService(tmp_path, valkey, rclone_s3, s3_prefix) as service, ThreadPoolExecutor(1) as pool:
        http = urllib3.PoolManager(maxsize=2)
        body = images(MOST_IMAGES)
        posted = pool.submit(http.request, "POST", f"{service.url}/v1/jobs", json=body, headers=service.headers)
        answered = 0
        while not posted.done():
            assert http.request("GET", f"{service.url}/livez").status == 200
            answered += 1
        assert posted.result().status == 202
        assert answered > 10


def test_only_a_post_of_jobs_takes_a_large_body(api: FlaskClient) -> None:
    too_large = images(1)
    too_large["images"][0]["source"] += "x" * 4 * 2**20
    assert refused(api.post("/v1/jobs", json=too_large)) == (413, "REQUEST_TOO_LARGE")
    response = api.put("/v1/images/team/app:1", json={"from": "x" * 70_000})
    assert refused(response) == (413, "REQUEST_TOO_LARGE")


@pytest.mark.parametrize("state", ["succeeded", "failed", "canceled"])
def test_a_job_that_has_ended_is_deleted_and_its_image_is_not(api: FlaskClient, core: Core, state: str) -> None:
    job_id = api.post("/v1/jobs", json={"source": "alpine:3.20"}).get_json()["id"]
    [task] = core.jobs.tasks(job_id, 1)
    claim = Records.of(core).claim(task.id, 0)
    assert claim
    assert Records.of(core).settle(claim, state, Outcome())
    assert api.delete(f"/v1/jobs/{job_id}").status_code == 204
    assert refused(api.delete(f"/v1/jobs/{job_id}")) == (404, "JOB_UNKNOWN")
    assert api.get("/v1/jobs?source=alpine:3.20").get_json()["items"] == []


@pytest.mark.parametrize("is_running", [False, True])
def test_a_job_that_has_not_ended_is_not_deleted(api: FlaskClient, core: Core, is_running: bool) -> None:
    job_id = api.post("/v1/jobs", json={"source": "alpine:3.20"}).get_json()["id"]
    [task] = core.jobs.tasks(job_id, 1)
    assert not is_running or Records.of(core).claim(task.id, 0)
    response = api.delete(f"/v1/jobs/{job_id}")
    assert refused(response) == (409, "JOB_UNFINISHED")
    assert response.get_json()["hint"]
    assert api.get(f"/v1/jobs/{job_id}").get_json()["state"] == ("running" if is_running else "queued")


def test_a_job_that_nobody_knows_is_not_deleted(api: FlaskClient) -> None:
    for job_id in ("job_none", "job_01JDB2V3R8Y0N5Q7T9W1X3Z5B7", "job_01JDB2V3R8Y0N5Q7T9W1X3Z5B7:tasks"):
        assert refused(api.delete(f"/v1/jobs/{job_id}")) == (404, "JOB_UNKNOWN")


def test_without_the_token_or_with_an_unknown_option_nothing_is_deleted(
    api: FlaskClient, anyone: FlaskClient, core: Core
) -> None:
    job_id = api.post("/v1/jobs", json={"source": "alpine:3.20"}).get_json()["id"]
    api.post(f"/v1/jobs/{job_id}/cancel")
    assert refused(anyone.delete(f"/v1/jobs/{job_id}")) == (401, "UNAUTHORIZED")
    assert refused(api.delete(f"/v1/jobs/{job_id}?force=true")) == (422, "REQUEST_INVALID")
    assert core.jobs.job(job_id).state == "canceled"
