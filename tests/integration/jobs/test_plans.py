"""Plans: what a dry run finds, that it changes nothing, and that applying it does exactly that."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest

from mirror.errors import (
    InternalError,
    PlanEmpty,
    PlanTooLarge,
    PlanUnfinished,
    PlanUnknown,
)
from mirror.jobs.cancel import cancel_job
from mirror.jobs.retry import retry_job
from mirror.oci.tag_pattern import TagPattern
from mirror.records.job import JobOptions
from mirror.records.jobs import PLAN_SECONDS
from mirror.records.plans import plan_id_of
from mirror.records.rules import CopyOptions
from mirror.records.spec import CopySpec
from mirror.redis import keys
from tests.e2e.processes import eventually
from tests.integration.jobs.planning import (
    applied,
    found,
    planned,
    repository,
    shown,
    submitted,
    with_tags,
)
from tests.integration.jobs.test_request_counts import seen
from tests.integration.jobs.test_unchanged import hold_heads
from tests.support import images
from tests.support.fakes.registry import Reply
from tests.support.harness import Harness, mark_built
from tests.support.servers import RcloneS3
from tests.support.stopped_clock import StoppedClock


@pytest.fixture
def s3_server(rclone_s3: RcloneS3) -> RcloneS3:
    """These tests are about the source and Redis. Any S3 server will do."""
    return rclone_s3


def test_a_plan_is_applied_as_it_was_found_although_the_tag_has_moved(harness: Harness) -> None:
    first, second = images.image(images.layer("first")), images.image(images.layer("second"))
    harness.registry.put(first, "team/app", "1")
    plan = planned(harness, "team/app:1")
    harness.registry.put(second, "team/app", "1")
    job = applied(harness, plan)
    assert (job.state, job.digest) == ("succeeded", str(first.digest))
    assert shown(harness, "1") == first.digest


def test_a_plan_changes_neither_the_bucket_nor_what_a_pull_shows(harness: Harness) -> None:
    harness.registry.put(images.three_platforms("held"), "team/app", "held")
    harness.registry.put(images.three_platforms("new"), "team/app", "new")
    assert harness.mirror("team/app:held").state == "succeeded"
    harness.registry.put(images.image(images.layer("moved")), "team/app", "held")
    before = harness.stored()
    plan = planned(harness, "team/app:held", "team/app:new")
    assert [image.action for image in found(harness, plan)] == ["copy", "copy"]
    assert harness.stored() == before


def test_an_unchanged_image_is_planned_so_and_put_back_when_its_tag_moved_meanwhile(harness: Harness) -> None:
    mark_built(harness.redis)
    first, second = images.image(images.layer("first")), images.image(images.layer("second"))
    harness.registry.put(first, "team/app", "1")
    assert harness.mirror("team/app:1").state == "succeeded"
    harness.registry.requests.clear()
    plan = planned(harness, "team/app:1")
    [image] = found(harness, plan)
    assert (image.action, image.digest, image.requests) == ("unchanged", str(first.digest), 0)
    assert seen(harness.registry) == Counter({("HEAD", "manifests", ""): 1})
    harness.registry.requests.clear()
    assert applied(harness, plan).images.unchanged == 1
    assert seen(harness.registry) == Counter()
    harness.registry.put(second, "team/app", "1")
    assert harness.mirror("team/app:1").digest == str(second.digest)
    assert applied(harness, plan).state == "succeeded"
    assert shown(harness, "1") == first.digest


def test_a_tag_that_was_deleted_from_the_bucket_is_not_unchanged(harness: Harness) -> None:
    mark_built(harness.redis)
    harness.registry.put(images.image(images.layer("first")), "team/app", "1")
    assert harness.mirror("team/app:1").state == "succeeded"
    [key] = [key for key in harness.stored() if key.endswith("/current/link")]
    harness.bucket.delete([key])
    assert [image.action for image in found(harness, planned(harness, "team/app:1"))] == ["copy"]


def test_an_image_that_the_source_does_not_have_fails_and_the_rest_is_applied(harness: Harness) -> None:
    harness.registry.put(images.image(images.layer("first")), "team/app", "1")
    plan = planned(harness, "team/app:1", "team/app:missing")
    copy, fail = found(harness, plan)
    assert (copy.action, fail.action, fail.code, plan.state) == ("copy", "fail", "MANIFEST_UNKNOWN", "partial")
    job = applied(harness, plan)
    assert (job.state, job.images.total) == ("succeeded", 1)
    harness.registry.put(images.image(images.layer("late")), "team/app", "missing")
    retry_job(harness.jobs, harness.core.queue, plan.job.id)
    harness.run_tasks(plan.job)
    again = harness.core.plans.read(plan.id)
    assert (again.state, again.totals.copy) == ("ready", 2)
    assert applied(harness, again).images.total == 2


def test_a_digest_that_the_source_has_no_more_fails_as_usual(harness: Harness) -> None:
    first = images.image(images.layer("first"))
    harness.registry.put(first, "team/app", "1")
    plan = planned(harness, "team/app:1")
    harness.registry.remove("team/app", str(first.digest))
    job = applied(harness, plan)
    assert job.error is not None
    assert (job.state, job.error.code) == ("failed", "MANIFEST_UNKNOWN")
    assert shown(harness, "1") is None


def test_a_plan_expires_after_a_day_and_is_removed_with_everything(harness: Harness) -> None:
    times = StoppedClock(harness.redis)
    harness.registry.put(images.image(images.layer("first")), "team/app", "1")
    plan = planned(harness, "team/app:1")
    assert plan.expires_at is not None
    assert plan.job.finished_at is not None
    assert (plan.expires_at - plan.job.finished_at).total_seconds() == PLAN_SECONDS
    times.advance(PLAN_SECONDS - 1)
    assert harness.core.plans.read(plan.id).state == "ready"
    times.advance(1)
    with pytest.raises(PlanUnknown) as refused:
        applied(harness, plan)
    assert "Make a new one" in refused.value.hint
    assert harness.core.plans.page(limit=10, before=None) == ([], None)
    assert harness.records.remove_ended() == 1
    while harness.records.delete_leftovers():
        pass
    assert harness.redis.call("KEYS", f"*{plan.job.id}*") == []
    assert harness.redis.call("EXISTS", keys.PLANS) == 0


@pytest.mark.parametrize("plan_id", ["plan_01JDB2V3R8Y0N5Q7T9W1X3Z5B7", "plan_", "job_01JDB2V3R8Y0N5Q7T9W1X3Z5B7", "*"])
def test_nobody_knows_other_plans(harness: Harness, plan_id: str) -> None:
    with pytest.raises(PlanUnknown):
        harness.core.plans.read(plan_id)


def test_a_job_that_mirrors_is_no_plan(harness: Harness) -> None:
    harness.registry.put(images.image(images.layer("first")), "team/app", "1")
    with pytest.raises(PlanUnknown):
        harness.core.plans.read(plan_id_of(harness.mirror("team/app:1").id))
    assert harness.core.plans.page(limit=10, before=None) == ([], None)


def test_only_a_plan_that_is_ready_and_not_empty_is_applied(harness: Harness) -> None:
    harness.registry.put(images.image(images.layer("first")), "team/app", "1")
    job = submitted(harness, "team/app:1", "team/app:2")
    plan = harness.core.plans.read(plan_id_of(job.id))
    with pytest.raises(PlanUnfinished, match="planning"):
        applied(harness, plan)
    cancel_job(harness.jobs, job.id)
    with pytest.raises(PlanUnfinished, match="canceled"):
        applied(harness, plan)
    failed = planned(harness, "team/app:missing")
    with pytest.raises(PlanUnfinished, match="failed"):
        applied(harness, failed)
    retry_job(harness.jobs, harness.core.queue, job.id)
    harness.run_tasks(job)
    assert applied(harness, plan).state == "succeeded"


def test_a_plan_that_is_being_made_is_canceled(harness: Harness) -> None:
    harness.registry.put(images.image(images.layer("first")), "team/app", "1")
    release = hold_heads(harness)
    job = submitted(harness, "team/app:1")
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(harness.run_tasks, job)
        eventually(lambda: harness.registry.log(method="HEAD"), what="the source is asked")
        cancel_job(harness.jobs, job.id)
        eventually(lambda: harness.jobs.job(job.id).state == "canceled", what="the plan is canceled")
        release.set()
        running.result()
    plan = harness.core.plans.read(plan_id_of(job.id))
    assert (plan.state, plan.totals.copy) == ("canceled", 0)


def test_a_target_that_exists_is_skipped_and_a_plan_of_nothing_else_is_empty(harness: Harness) -> None:
    harness.registry.put(images.image(images.layer("first")), "team/app", "1")
    assert harness.mirror("team/app:1").state == "succeeded"
    harness.registry.put(images.image(images.layer("second")), "team/app", "1")
    harness.registry.requests.clear()
    plan = planned(harness, "team/app:1", options=CopyOptions(overwrite="never"))
    [image] = found(harness, plan)
    assert (image.action, image.code, plan.totals.skip) == ("skip", "exists", 1)
    assert seen(harness.registry) == Counter()
    with pytest.raises(PlanEmpty):
        applied(harness, plan)


def test_an_immutable_tag_that_its_source_moved_is_drifted_and_not_followed(harness: Harness) -> None:
    first, second = images.image(images.layer("first")), images.image(images.layer("second"))
    harness.registry.put(first, "team/app", "1")
    harness.registry.put(second, "team/app", "2")
    assert harness.mirror("team/app:1").state == "succeeded"
    harness.registry.put(second, "team/app", "1")
    options = CopyOptions(immutable=(TagPattern("glob", "*"),))
    plan = planned(harness, "team/app:1", "team/app:2", options=options)
    drifted, new = found(harness, plan)
    assert (drifted.action, drifted.code, drifted.digest) == ("drifted", "TAG_DRIFTED", str(second.digest))
    assert (new.action, plan.totals.drifted, plan.totals.copy, plan.state) == ("copy", 1, 1, "ready")
    job = applied(harness, plan)
    assert (job.state, job.images.total) == ("succeeded", 1)
    assert shown(harness, "1") == first.digest


def test_an_immutable_tag_that_appears_after_the_plan_is_not_moved_by_it(harness: Harness) -> None:
    first, second = images.image(images.layer("first")), images.image(images.layer("second"))
    harness.registry.put(first, "team/app", "1")
    plan = planned(harness, "team/app:1", options=CopyOptions(immutable=(TagPattern("exact", "1"),)))
    harness.registry.put(second, "team/app", "1")
    assert harness.mirror("team/app:1").state == "succeeded"
    job = applied(harness, plan)
    assert job.error is not None
    assert (job.state, job.error.code, shown(harness, "1")) == ("failed", "TAG_DRIFTED", second.digest)


def test_an_image_to_publish_again_is_copied_although_it_is_unchanged(harness: Harness) -> None:
    harness.registry.put(images.image(images.layer("first")), "team/app", "1")
    assert harness.mirror("team/app:1").state == "succeeded"
    plan = planned(harness, "team/app:1", options=CopyOptions(overwrite="always"))
    [image] = found(harness, plan)
    assert (image.action, image.bytes_to_copy, image.requests) == ("copy", 0, 1)
    assert applied(harness, plan).images.unchanged == 0


def test_without_heads_or_from_a_source_that_is_new_an_unchanged_image_costs_one_read(harness: Harness) -> None:
    mark_built(harness.redis)
    image = images.three_platforms("same")
    for path in ("team/app", "other/app"):
        harness.registry.put(image, path, "1")
    assert harness.mirror("team/app:1", "prod/app:1").state == "succeeded"
    plan = planned(harness, "other/app:1", target="prod/app:1")
    assert [(image.action, image.result_digest) for image in found(harness, plan)] == [("unchanged", str(image.digest))]
    harness.registry.script(lambda request, _: Reply(405) if request.method == "HEAD" else None)
    harness.registry.requests.clear()
    plan = planned(harness, "team/app:1", target="prod/app:1")
    assert [image.action for image in found(harness, plan)] == ["unchanged"]
    assert [request.method for request in harness.registry.log("api")] == ["HEAD", "GET"]


def test_a_plan_is_not_applied_in_part_if_the_record_of_an_image_is_gone(harness: Harness) -> None:
    for number in (1, 2):
        harness.registry.put(images.image(images.layer(f"own-{number}")), "team/app", str(number))
    plan = planned(harness, "team/app:1", "team/app:2")
    [_, task] = harness.jobs.tasks(plan.job.id, 2)
    harness.redis.call("DEL", keys.task(task.id))
    before = len(harness.redis.call("ZRANGE", keys.JOBS, 0, -1))
    with pytest.raises(InternalError):
        applied(harness, plan)
    assert len(harness.redis.call("ZRANGE", keys.JOBS, 0, -1)) == before


def test_a_plan_with_more_images_than_one_request_can_apply_is_refused(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in (1, 2):
        harness.registry.put(images.image(images.layer(f"own-{number}")), "team/app", str(number))
    plan = planned(harness, "team/app:1", "team/app:2")
    monkeypatch.setattr("mirror.jobs.plan.MOST_APPLIED", 1)
    with pytest.raises(PlanTooLarge, match="has 2 images to apply, but a job takes 1 of a plan"):
        applied(harness, plan)
    monkeypatch.setattr("mirror.jobs.plan.MOST_APPLIED", 2)
    assert applied(harness, plan).state == "succeeded"


def test_options_of_the_job_are_those_of_the_request_and_not_of_the_plan(harness: Harness) -> None:
    harness.registry.put(images.image(images.layer("first")), "team/app", "1")
    plan = planned(harness, "team/app:1")
    options = JobOptions(priority="high", on_error="abort")
    job = applied(harness, plan, options)
    assert (job.options, job.state) == (options, "succeeded")


def test_images_are_listed_in_pages_and_by_action(harness: Harness) -> None:
    for number in range(5):
        harness.registry.put(images.image(images.layer(f"own-{number}", 100)), "team/app", str(number))
    plan = planned(harness, *(f"team/app:{number}" for number in range(5)), "team/app:missing")
    plans, seen_tags, after = harness.core.plans, [], None
    while True:
        tasks, after = plans.images(plan, limit=2, after=after)
        seen_tags += [str(task.spec.source).rpartition(":")[2] for task in tasks]
        if after is None:
            break
    assert seen_tags == [*map(str, range(5)), "missing"]
    assert len(plans.images(plan, limit=10, action="copy")[0]) == 5
    [failed], following = plans.images(plan, limit=10, action="fail")
    assert (str(failed.spec.source).rpartition(":")[2], following) == ("missing", None)
    assert plans.images(plan, limit=10, action="skip") == ([], None)


def test_a_filtered_page_reads_a_bounded_number_of_tasks_and_names_where_to_go_on(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    harness.registry.put(images.image(images.layer("first")), "team/app", "1")
    plan = planned(harness, *(f"team/app:missing-{number}" for number in range(4)), "team/app:1")
    monkeypatch.setattr("mirror.records.plans._MOST_SCANNED", 2)
    pages: list[list[str]] = []
    after = None
    while not pages or after:
        tasks, after = harness.core.plans.images(plan, limit=10, action="copy", after=after)
        pages.append([str(task.spec.source).rpartition(":")[2] for task in tasks])
    assert pages == [[], [], ["1"]]


def test_a_plan_of_a_selection_names_each_chosen_tag_with_its_rule_and_is_applied_as_found(harness: Harness) -> None:
    mark_built(harness.redis)
    made = with_tags(harness, "3.17", "3.18", "3.19", "3.20-rc1")
    assert harness.mirror("team/app:3.18").state == "succeeded"
    job = repository(harness, tags={"semver": ">=3.18"})
    plan = harness.core.plans.read(plan_id_of(job.id))
    tasks, _ = harness.core.plans.images(plan, limit=10)
    for task in tasks:
        assert isinstance(task.spec, CopySpec)
        assert task.spec.chosen_by
    tags = [str(task.spec.source).rpartition(":")[2] for task in tasks]
    actions = [image.action for image in found(harness, plan)]
    assert (tags, actions) == (["3.18", "3.19"], ["unchanged", "copy"])
    assert (plan.state, job.images.total, plan.totals.copy, plan.totals.unchanged) == ("ready", 2, 1, 1)
    for tag in ("3.18", "3.19"):
        harness.registry.put(images.image(images.layer(f"moved {tag}")), "team/app", tag)
    job = applied(harness, plan)
    assert (job.state, job.images.total, job.images.unchanged) == ("succeeded", 2, 1)
    assert {tag: shown(harness, tag) for tag in ("3.18", "3.19")} == {tag: made[tag].digest for tag in ("3.18", "3.19")}
