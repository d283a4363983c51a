"""Atomic jobs over the API: what is accepted, and what the job and its tasks show."""

from __future__ import annotations

from typing import Any

from flask.testing import FlaskClient

from mirror.oci.digest import Digest
from mirror.records.claims import Claim, Outcome
from mirror.storage.releases import MOST_TAGS
from mirror.wiring import Core
from tests.support.records import Records

IMAGES = [{"source": "alpine:3.20"}, {"source": "redis:7"}]
DIGEST = str(Digest.of(b"an image"))


def claimed(core: Core, job_id: str, place: int) -> Claim:
    task = core.jobs.tasks(job_id, 10)[place]
    claim = Records.of(core).claim(task.id, task.fence)
    assert claim
    return claim


def test_an_atomic_job_has_a_release_and_shows_its_window(api: FlaskClient, core: Core) -> None:
    response = api.post("/v1/jobs", json={"images": IMAGES, "atomic": True})
    assert response.status_code == 202, response.json
    job: dict[str, Any] = response.get_json()
    assert (job["atomic"], job["release_window"], job["images"]["total"]) == (True, None, 2)
    records = Records.of(core)
    for place in range(2):
        assert records.settle(claimed(core, job["id"], place), "succeeded", Outcome(DIGEST, staged=1))
    tasks = api.get(f"/v1/jobs/{job['id']}/tasks").get_json()["items"]
    assert [task["kind"] for task in tasks] == ["copy", "copy", "release"]
    assert records.settle(claimed(core, job["id"], 2), "succeeded", Outcome(release_window=17))
    job = api.get(f"/v1/jobs/{job['id']}").get_json()
    assert (job["state"], job["release_window"]) == ("succeeded", 17)
    assert api.delete(f"/v1/jobs/{job['id']}").status_code == 204


def test_too_many_tags_of_an_atomic_job_are_refused(api: FlaskClient) -> None:
    images = [{"source": f"alpine:{number}"} for number in range(MOST_TAGS + 1)]
    response = api.post("/v1/jobs", json={"images": images, "atomic": True})
    assert (response.status_code, response.get_json()["code"]) == (422, "RELEASE_TOO_LARGE")
    assert str(MOST_TAGS) in response.get_json()["detail"]
    assert api.get("/v1/jobs").get_json()["items"] == []
