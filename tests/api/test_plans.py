"""``/v1/plans``, and the jobs that make and apply plans. What workers find is written to the records here."""

from __future__ import annotations

from typing import Any

import pytest
from flask.testing import FlaskClient

from mirror.errors import ManifestUnknown
from mirror.oci.descriptor import Descriptor
from mirror.oci.digest import Digest
from mirror.records.claims import Outcome
from mirror.records.plans import ImagePlan
from mirror.records.spec import CopySpec
from mirror.records.task import ErrorReport
from mirror.wiring import Core
from service.api.plans.document import INLINE_IMAGES
from tests.support.records import Records
from tests.support.stopped_clock import StoppedClock

BASE = "https://mirror.example:8443"
DIGEST = str(Digest.of(b"planned"))
COPY = ImagePlan("copy", "The mirror has no such target yet.", None, DIGEST, DIGEST, 70, 0, 1, 2, 3)
SKIP = ImagePlan("skip", "It exists.", "exists")


def post(api: FlaskClient, *sources: str) -> dict[str, Any]:
    body = {"images": [{"source": source} for source in sources]} if len(sources) > 1 else {"source": sources[0]}
    response = api.post("/v1/jobs?dry_run=true", json=body)
    assert response.status_code == 202, response.json
    document: dict[str, Any] = response.get_json()
    assert response.headers["Location"] == document["links"]["self"] == f"{BASE}/v1/plans/{document['id']}"
    assert response.headers["Retry-After"] == "2"
    return document


def settle(core: Core, plan: dict[str, Any], *found: ImagePlan | None) -> None:
    """End the tasks of a plan with what a worker found. None stands for a failure."""
    records = Records.of(core)
    tasks = core.jobs.tasks(plan["id"].replace("plan_", "job_"), 100)
    for task, image in zip(tasks, found, strict=True):
        claim = records.claim(task.id, task.fence)
        assert claim is not None
        error = ErrorReport.of(ManifestUnknown(str(task.spec.source)))
        if image is not None and image.bytes_to_copy:
            size = image.bytes_to_copy
            core.plans.count_blobs(claim, [(Descriptor("", Digest.of(b"shared"), size), 2)], [])
        state, outcome = ("succeeded", Outcome(plan=image.fields())) if image else ("failed", Outcome(error=error))
        assert records.settle(claim, state, outcome)


def read(api: FlaskClient, plan: dict[str, Any], rest: str = "") -> dict[str, Any]:
    response = api.get(f"/v1/plans/{plan['id']}{rest}")
    assert response.status_code == 200, response.json
    document: dict[str, Any] = response.get_json()
    return document


def test_a_plan_is_accepted_made_and_read(api: FlaskClient, core: Core) -> None:
    posted = post(api, "alpine:3.20")
    assert (posted["state"], posted["expires_at"]) == ("planning", None)
    assert posted["request"]["source"] == "docker.io/library/alpine:3.20"
    assert posted["links"]["cancel"] == posted["links"]["job"] + "/cancel"
    [image] = posted["images"]
    assert (image["source"], image["action"], image["bytes_to_copy"]) == ("docker.io/library/alpine:3.20", None, 0)
    assert read(api, posted) == posted
    job = api.get(posted["links"]["job"].removeprefix(BASE)).get_json()
    assert (job["kind"], job["links"]["plan"]) == ("plan", posted["links"]["self"])
    settle(core, posted, COPY)
    plan = read(api, posted)
    assert plan["state"] == "ready"
    assert plan["expires_at"] > plan["created_at"]
    assert plan["images"] == [
        {
            "source": "docker.io/library/alpine:3.20",
            "target": "docker.io/library/alpine:3.20",
            "action": "copy",
            "reason": "The mirror has no such target yet.",
            "code": None,
            "chosen_by": None,
            "digest": DIGEST,
            "result_digest": DIGEST,
            "bytes_to_copy": 70,
            "bytes_held": 0,
            "requests": 3,
            "pull_quota": 3,
        }
    ]
    assert plan["totals"] == {
        "images": 1,
        "copy": 1,
        "unchanged": 0,
        "skip": 0,
        "drifted": 0,
        "failed": 0,
        "bytes_to_copy": 70,
        "bytes_held": 0,
        "requests": 3,
        "pull_quota": 3,
        "exact": True,
    }
    assert "cancel" not in plan["links"]


def test_totals_count_a_shared_blob_once_and_failures_apart(api: FlaskClient, core: Core) -> None:
    plan = post(api, "alpine:1", "alpine:2", "alpine:3", "alpine:4")
    settle(core, plan, COPY, COPY, SKIP, None)
    shown = read(api, plan)
    totals = shown["totals"]
    assert (shown["state"], totals["images"], totals["copy"], totals["skip"], totals["failed"]) == (
        "partial",
        4,
        2,
        1,
        1,
    )
    assert (totals["bytes_to_copy"], totals["requests"], totals["pull_quota"]) == (70, 4, 6)
    assert [image["action"] for image in shown["images"]] == ["copy", "copy", "skip", "fail"]
    assert (shown["images"][2]["code"], shown["images"][3]["code"]) == ("exists", "MANIFEST_UNKNOWN")
    assert shown["links"]["retry"] == shown["links"]["job"] + "/retry"


def test_images_come_in_pages_and_by_action(api: FlaskClient, core: Core) -> None:
    plan = post(api, *(f"alpine:{n}" for n in range(25)))
    settle(core, plan, *([COPY] * 24), SKIP)
    assert len(read(api, plan)["images"]) == INLINE_IMAGES
    seen, url = [], f"/v1/plans/{plan['id']}/images?limit=10&action=copy"
    while url:
        response = api.get(url)
        seen += [image["source"] for image in response.get_json()["items"]]
        url = response.headers.get("Link", "").partition(";")[0].strip("<>").removeprefix(BASE)
    assert seen == [f"docker.io/library/alpine:{n}" for n in range(24)]
    assert [image["code"] for image in read(api, plan, "/images?action=skip")["items"]] == ["exists"]
    assert api.get(f"/v1/plans/{plan['id']}/images?action=none").status_code == 422


def test_plans_are_listed_newest_first_without_other_jobs(api: FlaskClient) -> None:
    first = post(api, "alpine:1")
    api.post("/v1/jobs", json={"source": "redis:7"})
    second = post(api, "alpine:2")
    page = api.get("/v1/plans?limit=1").get_json()
    assert [plan["id"] for plan in page["items"]] == [second["id"]]
    assert "images" not in page["items"][0]
    page = api.get(f"/v1/plans?limit=1&cursor={page['next']}").get_json()
    assert ([plan["id"] for plan in page["items"]], page["next"]) == ([first["id"]], None)


def test_applying_a_plan_makes_a_job_pinned_to_its_digests(api: FlaskClient, core: Core) -> None:
    plan = post(api, "alpine:1", "alpine:2", "alpine:3")
    settle(core, plan, COPY, ImagePlan("unchanged", "As it is.", None, DIGEST, DIGEST), SKIP)
    response = api.post("/v1/jobs", json={"plan": plan["id"], "priority": "low", "on_error": "abort"})
    job = response.get_json()
    assert (response.status_code, job["kind"], job["priority"], job["on_error"]) == (202, "mirror", "low", "abort")
    assert response.headers["Location"] == f"{BASE}/v1/jobs/{job['id']}"
    assert [(task["source"], task["target"]) for task in job["tasks"]] == [
        (f"docker.io/library/alpine:{n}@{DIGEST}", f"docker.io/library/alpine:{n}") for n in (1, 2)
    ]
    specs = [task.spec for task in core.jobs.tasks(job["id"], 10)]
    assert [spec.is_dry_run for spec in specs if isinstance(spec, CopySpec)] == [False, False]
    again = api.post("/v1/jobs", json={"plan": plan["id"], "atomic": True}).get_json()
    assert (again["atomic"], again["images"]["total"]) == (True, 2)
    assert all(task.spec.is_staged for task in core.jobs.tasks(again["id"], 2))


@pytest.mark.parametrize("plan_id", ["plan_01JDB2V3R8Y0N5Q7T9W1X3Z5B7", "plan_x", "job_01JDB2V3R8Y0N5Q7T9W1X3Z5B7"])
def test_a_plan_that_nobody_knows_is_404_with_a_hint(api: FlaskClient, plan_id: str) -> None:
    answers = [api.post("/v1/jobs", json={"plan": plan_id}), api.get(f"/v1/plans/{plan_id}")]
    for response in [*answers, api.get(f"/v1/plans/{plan_id}/images")]:
        problem = response.get_json()
        assert (response.status_code, problem["code"]) == (404, "PLAN_UNKNOWN")
        assert "Make a new one: POST /v1/jobs?dry_run=true." in problem["hint"]


def test_an_expired_plan_is_404(api: FlaskClient, core: Core) -> None:
    times = StoppedClock(core.redis)
    plan = post(api, "alpine:1")
    settle(core, plan, COPY)
    times.advance(86_400)
    response = api.post("/v1/jobs", json={"plan": plan["id"]})
    assert (response.status_code, response.get_json()["code"]) == (404, "PLAN_UNKNOWN")
    assert api.get("/v1/plans").get_json()["items"] == []


def test_a_plan_that_is_not_ready_or_empty_is_409(api: FlaskClient, core: Core) -> None:
    plan = post(api, "alpine:1")
    response = api.post("/v1/jobs", json={"plan": plan["id"]})
    assert (response.status_code, response.get_json()["code"]) == (409, "PLAN_UNFINISHED")
    settle(core, plan, SKIP)
    response = api.post("/v1/jobs", json={"plan": plan["id"]})
    assert (response.status_code, response.get_json()["code"]) == (409, "PLAN_EMPTY")


@pytest.mark.parametrize(
    ("beside", "pointer"),
    [
        ({"source": "redis"}, "/source"),
        ({"images": [{"source": "redis"}]}, "/images"),
        ({"overwrite": "never"}, "/overwrite"),
    ],
)
def test_what_to_copy_is_not_said_twice(api: FlaskClient, beside: dict[str, Any], pointer: str) -> None:
    response = api.post("/v1/jobs", json={"plan": "plan_01JDB2V3R8Y0N5Q7T9W1X3Z5B7", **beside})
    problem = response.get_json()
    assert (response.status_code, problem["code"]) == (422, "REQUEST_INVALID")
    assert [error["pointer"] for error in problem["errors"]] == [pointer]


def test_a_plan_of_a_plan_is_refused(api: FlaskClient) -> None:
    response = api.post("/v1/jobs?dry_run=true", json={"plan": "plan_01JDB2V3R8Y0N5Q7T9W1X3Z5B7"})
    assert (response.status_code, response.get_json()["errors"][0]["pointer"]) == (422, "/plan")


def test_a_plan_needs_the_token(anyone: FlaskClient, api: FlaskClient) -> None:
    plan = post(api, "alpine:1")
    for path in ("/v1/plans", f"/v1/plans/{plan['id']}", f"/v1/plans/{plan['id']}/images"):
        assert anyone.get(path).status_code == 401


def test_what_can_never_work_is_refused_before_a_plan_is_made(api: FlaskClient) -> None:
    response = api.post("/v1/jobs?dry_run=true", json={"source": "Alpine:3.20"})
    assert (response.status_code, response.get_json()["code"]) == (422, "NAME_INVALID")
    assert api.get("/v1/plans").get_json()["items"] == []


def test_a_plan_is_deleted_with_its_job(api: FlaskClient, core: Core) -> None:
    plan = post(api, "alpine:1")
    settle(core, plan, COPY)
    assert api.delete(plan["links"]["job"].removeprefix(BASE)).status_code == 204
    assert api.get(f"/v1/plans/{plan['id']}").status_code == 404
    assert api.get("/v1/plans").get_json()["items"] == []
    assert core.redis.call("KEYS", "*plan*") == []
