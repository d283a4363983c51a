"""Tags that their source has moved, in jobs that only report that."""

from __future__ import annotations

from collections import Counter

import pytest

from mirror.copying.cancellation import Cancellation
from mirror.oci.digest import Digest
from mirror.oci.tag_pattern import TagPattern
from mirror.records.job import Job
from mirror.records.job_request import ImageRequest
from mirror.records.rule_schemas import TAG_RULES
from mirror.records.rules import NO_REFERRERS, CopyOptions, PlatformMode
from mirror.records.task import Skipped
from tests.integration.jobs.overwriting import (
    NEW,
    OLD,
    before_the_lock,
    code_of,
    during_copy,
    mirrored,
    shown,
    submitted,
)
from tests.integration.jobs.planning import found, planned
from tests.integration.jobs.platform_jobs import rules
from tests.support import images
from tests.support.fakes.lists import tag_pages
from tests.support.harness import Harness, mark_built
from tests.support.release_set import ReleaseSet
from tests.support.servers import RcloneS3

REPORT = CopyOptions(on_move_upstream="report", referrers=NO_REFERRERS)
TAGS = ("v1", "v2", "v3", "v4")


@pytest.fixture
def s3_server(rclone_s3: RcloneS3) -> RcloneS3:
    """These tests are about what a job decides. Any S3 server will do."""
    return rclone_s3


def serve(harness: Harness, image: images.TestImage, *tags: str) -> None:
    for tag in tags:
        harness.registry.put(image, "team/app", tag)


def moved(harness: Harness, keeps: Digest | None, now: Digest, source: str = "team/app:v1") -> Skipped:
    message = f"The source '{harness.registry.host}/{source}' now shows {now} and the target keeps {keeps}"
    return Skipped("moved", message, str(keeps), str(now))


def selected(harness: Harness) -> Job:
    """Mirror all tags of team/app with a selection that reports moves."""
    harness.registry.script(tag_pages(list(TAGS)))
    source = f"{harness.registry.host}/team/app"
    request = ImageRequest(source, "prod/app:{tag}", tags=TAG_RULES.load({}), options=REPORT)
    return harness.run_work_horses(harness.core.submitter.submit([request])[0])


def test_a_moved_tag_is_left_alone_and_reported_and_its_task_succeeds(harness: Harness) -> None:
    serve(harness, OLD, "v1")
    assert mirrored(harness, REPORT).skipped is None
    assert mirrored(harness, REPORT).unchanged
    serve(harness, NEW, "v1")
    stored = harness.stored()
    task = mirrored(harness, REPORT)
    assert (task.state, task.unchanged, task.skipped) == ("succeeded", False, moved(harness, OLD.digest, NEW.digest))
    assert (task.digest, task.source_digest) == (str(OLD.digest), str(NEW.digest))
    counts = harness.jobs.job(task.job).images
    assert (counts.succeeded, counts.skipped, counts.unchanged) == (1, 1, 0)
    assert shown(harness) == OLD.digest
    assert harness.stored() == stored
    assert not [q for q in harness.registry.log() if any(str(digest) in q.path for digest in NEW.blobs)]
    assert mirrored(harness, CopyOptions()).skipped is None
    assert shown(harness) == NEW.digest


def test_moved_tags_among_unchanged_ones_are_skipped_alone(harness: Harness) -> None:
    wanted = [(f"team/app:{tag}", f"prod/app:{tag}") for tag in TAGS]
    serve(harness, OLD, *TAGS)
    harness.run_work_horses(submitted(harness, REPORT, *wanted))
    serve(harness, NEW, "v2", "v3")
    job = harness.run_work_horses(submitted(harness, REPORT, *wanted))
    assert (job.state, job.images.unchanged, job.images.skipped) == ("succeeded", 2, 2)


def test_in_a_selection_an_unchanged_tag_costs_one_head_and_a_moved_one_is_reported(harness: Harness) -> None:
    mark_built(harness.redis)
    serve(harness, OLD, *TAGS)
    assert selected(harness).images.succeeded == 4
    harness.registry.requests.clear()
    serve(harness, NEW, "v3")
    job = selected(harness)
    assert (job.state, job.images.unchanged, job.images.skipped) == ("succeeded", 3, 1)
    expansion, task = harness.jobs.tasks(job.id, 9)
    assert (expansion.expansion.unchanged, task.skipped) == (
        3,
        moved(harness, OLD.digest, NEW.digest, "team/app:v3"),
    )
    heads = [q.path.rpartition("/")[2] for q in harness.registry.log("api", method="HEAD")]
    assert Counter(heads) == Counter({**dict.fromkeys(TAGS, 1), "v3": 2})
    assert [shown(harness, tag) for tag in TAGS] == [OLD.digest] * 4


def test_a_moved_tag_is_not_part_of_a_release(harness: Harness) -> None:
    tags = ReleaseSet.of(harness, 1, fresh=2)
    job = tags.run(options=REPORT)
    assert (job.state, job.images.succeeded, job.images.skipped) == ("succeeded", 3, 1)
    assert tags.shown() == {**tags.new, "team/app-0:1": tags.old["team/app-0:1"]}


def test_a_plan_skips_a_moved_tag(harness: Harness) -> None:
    serve(harness, OLD, "v1", "v2")
    target = f"{harness.registry.host.replace(':', '_')}/team/app:v1"
    mirrored(harness, CopyOptions(), target=target)
    serve(harness, NEW, "v1")
    plan = planned(harness, "team/app:v1", "team/app:v2", options=REPORT)
    skipped, new = found(harness, plan)
    assert (skipped.action, skipped.code, skipped.digest) == ("skip", "moved", str(NEW.digest))
    assert skipped.reason == f"{moved(harness, OLD.digest, NEW.digest).message}."
    assert (new.action, plan.totals.skip, plan.totals.copy) == ("copy", 1, 1)


@pytest.mark.parametrize("mode", ["sparse", "rewrite", "single"])
def test_rules_for_platforms_are_no_move_of_the_source(harness: Harness, mode: PlatformMode) -> None:
    """The tag shows another digest than its source, which the mirror has made of it."""
    first, second = (images.three_platforms(name) for name in ("first", "second"))
    options = CopyOptions(rules(mode, "linux/amd64"), on_move_upstream="report")
    serve(harness, first, "v1")
    assert mirrored(harness, options).skipped is None
    assert mirrored(harness, options).unchanged
    other = CopyOptions(rules("single", "linux/arm64"), on_move_upstream="report")
    assert mirrored(harness, other).skipped is None
    keeps = shown(harness)
    assert keeps not in (None, first.digest)
    serve(harness, second, "v1")
    for wanted in (options, other):
        assert mirrored(harness, wanted).skipped == moved(harness, keeps, second.digest)
    assert shown(harness) == keeps


def test_always_publishes_an_unchanged_image_again_and_leaves_a_moved_tag_alone(harness: Harness) -> None:
    options = CopyOptions(overwrite="always", on_move_upstream="report")
    serve(harness, OLD, "v1")
    mirrored(harness, options)
    task = mirrored(harness, options)
    assert (task.skipped, task.unchanged) == (None, False)
    serve(harness, NEW, "v1")
    assert mirrored(harness, options).skipped == moved(harness, OLD.digest, NEW.digest)


def test_an_immutable_tag_that_has_moved_is_an_error_all_the_same(harness: Harness) -> None:
    options = CopyOptions(immutable=(TagPattern("glob", "v*"),), on_move_upstream="report")
    serve(harness, OLD, "v1")
    mirrored(harness, options)
    serve(harness, NEW, "v1")
    assert code_of(mirrored(harness, options)) == "TAG_DRIFTED"


def test_a_tag_that_appears_right_before_the_lock_with_another_image_is_left_alone(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The decision under the tag's lease is the last one. The other job is earlier, so it supersedes nothing."""
    serve(harness, NEW, "v1")
    harness.registry.put(OLD, "team/other", "v1")
    earlier = submitted(harness, CopyOptions(), ("team/other:v1", "prod/app:v1"))
    [claimed] = harness.core.claimer.claim(harness.core.queue.take(1), Cancellation())
    before_the_lock(harness, monkeypatch, lambda: harness.core.runner.run(claimed))
    task = mirrored(harness, REPORT)
    assert harness.jobs.job(earlier.id).state == "succeeded"
    assert (task.state, task.skipped) == ("succeeded", moved(harness, OLD.digest, NEW.digest))
    assert shown(harness) == OLD.digest


def test_a_copy_that_a_later_job_overtook_is_superseded_and_reports_no_move(harness: Harness) -> None:
    serve(harness, OLD, "v1")

    def move_and_mirror() -> None:
        serve(harness, NEW, "v1")
        assert mirrored(harness, REPORT).state == "succeeded"

    during_copy(harness, OLD, move_and_mirror)
    earlier = mirrored(harness, REPORT)
    assert (earlier.state, earlier.skipped) == ("succeeded", None)
    assert earlier.superseded_by
    assert shown(harness) == NEW.digest
