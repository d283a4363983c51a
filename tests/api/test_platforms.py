"""Requests choose platforms, and responses say what became of the digest.

`tests/e2e/test_platforms.py` mirrors and pulls such images.
"""

from __future__ import annotations

from typing import Any

import pytest
from flask.testing import FlaskClient

from mirror.records.claims import Outcome
from mirror.records.task import Skipped
from mirror.wiring import Core
from tests.support.records import Records

SOURCE_DIGEST, SHOWN = (f"sha256:{text * 32}" for text in ("ab", "cd"))
BY_DIGEST = f"docker.io/library/alpine@{SOURCE_DIGEST}"


def posted(api: FlaskClient, platforms: dict[str, Any], source: str = "alpine:3.20", **fields: Any) -> dict[str, Any]:
    answer = api.post("/v1/jobs", json={"source": source, "platforms": platforms, **fields})
    document: dict[str, Any] = answer.get_json()
    return {"status": answer.status_code, **document}


def test_the_answer_repeats_the_platforms_as_they_were_understood(api: FlaskClient) -> None:
    only = ["linux/x86_64", "Linux/arm64/v8", "linux/armhf", "windows/amd64:10.0.20348.*"]
    job = posted(api, {"only": only, "mode": "sparse"})
    assert job["request"]["platforms"] == {
        "only": ["linux/amd64", "linux/arm64/v8", "linux/arm/v7", "windows/amd64:10.0.20348.*"],
        "mode": "sparse",
    }
    [task] = api.get(f"/v1/jobs/{job['id']}").get_json()["tasks"]
    assert task["request"]["platforms"] == job["request"]["platforms"]


REFUSALS: list[tuple[dict[str, Any], str]] = [
    ({"only": ["linux"]}, "/platforms/only/0"),
    ({"only": ["linux/amd64", "linux/a b"]}, "/platforms/only/1"),
    ({"only": ["windows/amd64:10.[0"]}, "/platforms/only/0"),
    ({"only": ["linux/amd64"], "mode": "both"}, "/platforms/mode"),
    ({"mode": "sparse"}, "/platforms/only"),
    ({"only": [], "mode": "rewrite"}, "/platforms/only"),
    ({"only": ["linux/amd64", "linux/arm64"], "mode": "single"}, "/platforms/only"),
    ({"only": ["linux/amd64"], "kind": "sparse"}, "/platforms/kind"),
]


@pytest.mark.parametrize(("platforms", "pointer"), REFUSALS)
def test_a_rule_that_can_never_work_is_refused_at_its_place(
    api: FlaskClient, platforms: dict[str, Any], pointer: str
) -> None:
    refused = posted(api, platforms)
    assert refused["status"] == 422
    assert [error["pointer"] for error in refused["errors"]] == [pointer]


@pytest.mark.parametrize("mode", ["rewrite", "single"])
def test_a_target_named_by_its_digest_cannot_get_another_digest(api: FlaskClient, mode: str) -> None:
    platforms = {"only": ["linux/amd64"], "mode": mode}
    refused = posted(api, platforms, BY_DIGEST)
    assert (refused["status"], refused["code"]) == (422, "NAME_INVALID")
    assert f"the platforms mode '{mode}'" in refused["detail"]
    assert posted(api, platforms, BY_DIGEST, target="team/alpine:1")["status"] == 202
    assert posted(api, {**platforms, "mode": "sparse"}, BY_DIGEST)["status"] == 202


OUTCOMES = [
    (Outcome(digest=SHOWN), (SHOWN, SHOWN, True)),
    (Outcome(digest=SHOWN, unchanged=True), (SHOWN, SHOWN, True)),
    (Outcome(digest=SHOWN, source_digest=SOURCE_DIGEST), (SHOWN, SOURCE_DIGEST, False)),
    (Outcome(digest=SHOWN, source_digest=SOURCE_DIGEST, unchanged=True), (SHOWN, SOURCE_DIGEST, False)),
    (Outcome(digest=SHOWN, superseded_by="job_x"), (SHOWN, None, None)),
    (Outcome(digest=SHOWN, skipped=Skipped("exists", "It is there.")), (SHOWN, None, None)),
    (
        Outcome(source_digest=SOURCE_DIGEST, skipped=Skipped("platform_not_wanted", "It is for others.")),
        (None, SOURCE_DIGEST, None),
    ),
]


@pytest.mark.parametrize(("outcome", "expected"), OUTCOMES)
def test_a_job_and_its_task_say_whether_the_digest_is_that_of_the_source(
    api: FlaskClient, core: Core, outcome: Outcome, expected: tuple[str | None, str | None, bool | None]
) -> None:
    job = posted(api, {"only": ["linux/amd64"], "mode": "single"})
    assert (job["digest"], job["source_digest"], job["digest_preserved"]) == (None, None, None)
    [task] = core.jobs.tasks(job["id"], 1)
    claim = Records.of(core).claim(task.id, task.fence)
    assert claim
    Records.of(core).settle(claim, "succeeded", outcome)
    job = api.get(f"/v1/jobs/{job['id']}").get_json()
    for shown in (job, job["tasks"][0]):
        assert (shown["digest"], shown["source_digest"], shown["digest_preserved"]) == expected
