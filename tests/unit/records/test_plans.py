"""What is known of a planned image, read from its task, and the totals of a plan, read from its job."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from mirror.errors import ManifestUnknown
from mirror.records.fields import MOST
from mirror.records.job import ImageCounts, Job
from mirror.records.plans import PLAN_STATES, ImagePlan, Plan, PlanTotals, plan_id_of
from mirror.records.spec import CopySpec
from mirror.records.states import JOB_STATES
from mirror.records.task import ErrorReport, Task

MOMENT = datetime(2026, 11, 28, tzinfo=UTC)
COPY = ImagePlan("copy", "The mirror has no such target yet.", digest="sha256:a", bytes_to_copy=7, own_requests=1)


def task(**fields: Any) -> Task:
    found = {"state": "succeeded", **fields}
    return Task("task_1", "job_1", CopySpec.parse("alpine:3", "alpine:3"), created_at=MOMENT, **found)


def test_a_plan_is_read_as_it_was_stored_and_unknown_fields_of_a_later_release_are_ignored() -> None:
    stored = Task.from_record(task(plan={**COPY.fields(), "later": 1}).to_record())
    assert ImagePlan.of(stored) == COPY
    assert "bytes_held" not in COPY.fields()


def test_a_task_that_failed_is_an_image_that_could_not_be_planned() -> None:
    error = ErrorReport.of(ManifestUnknown("alpine:3"))
    assert ImagePlan.of(task(state="failed", error=error)) == ImagePlan("fail", error.message, "MANIFEST_UNKNOWN")


@pytest.mark.parametrize("state", ["queued", "running", "canceled"])
def test_nothing_is_known_of_an_image_before_it_is_planned(state: str) -> None:
    assert ImagePlan.of(task(state=state)) is None


def test_totals_are_numbers_whatever_the_record_holds() -> None:
    assert PlanTotals.from_record([None] * 10) == PlanTotals()
    read = PlanTotals.from_record(["3", "", "x", "-1", "1e+30", "5", "1", "2", "0", "1"])
    assert (read.copy, read.unchanged, read.skip, read.drifted) == (3, 0, 0, 0)
    assert (read.bytes_to_copy, read.bytes_held, read.requests, read.is_bound) == (MOST, 5, 3, True)


@pytest.mark.parametrize("state", JOB_STATES)
def test_only_a_plan_that_has_ended_with_images_may_be_applied(state: Any) -> None:
    plan = Plan(Job("job_01J", None, state, MOMENT, ImageCounts(1)), PlanTotals(), None)
    assert plan.state in PLAN_STATES
    assert plan.is_ready == (state in ("succeeded", "partial"))
    assert plan.id == plan_id_of("job_01J") == "plan_01J"
