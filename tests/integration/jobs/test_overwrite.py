"""Targets that exist: left alone, followed, published again, or reported as drifted. Also by two jobs at once."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from mirror.copying.cancellation import Cancellation
from mirror.oci.tag_pattern import TagPattern
from mirror.queue import NORMAL
from mirror.records.job import Job
from mirror.records.job_request import ImageRequest
from mirror.records.rules import NO_REFERRERS, CopyOptions, Overwrite, TargetRule
from mirror.records.task import Task
from mirror.storage import layout
from tests.integration.jobs.overwriting import (
    NEW,
    OLD,
    before_the_lock,
    code_of,
    during_copy,
    mirrored,
    shown,
    submitted,
    task_of,
)
from tests.support import images
from tests.support.fakes.docker_hub import PullLimit
from tests.support.fakes.registry import Reply, Request
from tests.support.harness import Harness
from tests.support.records import copy_of
from tests.support.stopped_clock import StoppedClock

NEVER = CopyOptions(overwrite="never")
ALWAYS = CopyOptions(overwrite="always")
RELEASES = (TagPattern("glob", "v*"),)
IMMUTABLE = CopyOptions(immutable=RELEASES)


# -- never


def test_never_leaves_a_tag_alone_and_asks_its_source_nothing(harness: Harness) -> None:
    harness.registry.put(OLD, "team/app", "v1")
    harness.mirror("team/app:v1", "prod/app:v1")
    harness.registry.put(NEW, "team/app", "v1")
    stored, asked = harness.stored(), len(harness.registry.log())
    task = mirrored(harness, NEVER)
    assert task.skipped
    assert (task.state, task.unchanged, task.skipped.reason) == ("succeeded", False, "exists")
    assert task.skipped.message == "The target 'prod/app:v1' exists already and overwrite is 'never'"
    assert task.digest == str(OLD.digest)
    images_of = harness.jobs.job(task.job).images
    assert (images_of.succeeded, images_of.skipped, images_of.unchanged) == (1, 1, 0)
    assert len(harness.registry.log()) == asked
    assert harness.stored() == stored


def test_a_tag_whose_copy_died_before_it_was_listed_is_listed_when_it_is_skipped(harness: Harness) -> None:
    harness.registry.put(OLD, "team/app", "v1")
    mirrored(harness, NEVER)
    listed = harness.core.index.entry("prod/app", "v1")
    harness.core.index.remove("prod/app", "v1")
    assert mirrored(harness, NEVER).skipped
    assert listed is not None
    assert harness.core.index.entry("prod/app", "v1") == listed


def test_never_copies_a_tag_that_does_not_exist(harness: Harness) -> None:
    harness.registry.put(NEW, "team/app", "v1")
    task = mirrored(harness, NEVER)
    assert (task.state, task.skipped) == ("succeeded", None)
    assert shown(harness) == NEW.digest


def test_many_tags_that_exist_are_skipped_together_and_those_that_are_gone_are_copied(harness: Harness) -> None:
    wanted = [(f"team/app:v{number}", f"prod/app:v{number}") for number in range(24)]
    for number in range(24):
        harness.registry.put(OLD, "team/app", f"v{number}")
    assert harness.run_work_horses(submitted(harness, NEVER, *wanted)).images.skipped == 0
    harness.bucket.delete([layout.tag_current_key("prod/app", "v7")])
    asked = len(harness.registry.log())
    job = harness.run_work_horses(submitted(harness, NEVER, *wanted))
    assert (job.state, job.images.succeeded, job.images.skipped) == ("succeeded", 24, 23)
    assert {request.path.rpartition("/")[2] for request in harness.registry.log()[asked:]} <= {"v7", str(OLD.digest)}
    assert shown(harness, "v7") == OLD.digest


def test_a_skipped_tag_does_not_stop_an_earlier_job_from_moving_it(harness: Harness) -> None:
    """To leave a tag alone is no change of it, so it supersedes nothing."""
    harness.registry.put(OLD, "team/app", "v1")
    harness.mirror("team/app:v1", "prod/app:v1")
    harness.registry.put(NEW, "team/app", "v1")
    skipped: list[Task] = []
    during_copy(harness, NEW, lambda: skipped.append(mirrored(harness, NEVER)))
    moved = mirrored(harness, CopyOptions())
    assert [task.skipped is not None for task in skipped] == [True]
    assert (moved.state, moved.superseded_by) == ("succeeded", None)
    assert shown(harness) == NEW.digest


def test_a_tag_that_appears_during_the_copy_is_left_alone(harness: Harness) -> None:
    harness.registry.put(OLD, "team/app", "v1")
    harness.registry.put(NEW, "team/other", "v1")
    during_copy(harness, OLD, lambda: mirrored(harness, CopyOptions(), "team/other:v1"))
    task = mirrored(harness, NEVER)
    assert task.skipped
    assert (task.state, task.skipped.reason, task.digest) == ("succeeded", "exists", str(NEW.digest))
    assert shown(harness) == NEW.digest


def test_a_tag_that_appears_right_before_the_lock_is_left_alone(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The decision under the tag's lease is the last one."""
    harness.registry.put(OLD, "team/app", "v1")
    harness.registry.put(NEW, "team/other", "v1")
    before_the_lock(harness, monkeypatch, lambda: mirrored(harness, CopyOptions(), "team/other:v1"))
    task = mirrored(harness, NEVER)
    assert task.skipped
    assert shown(harness) == NEW.digest


def test_of_two_jobs_at_once_one_publishes_and_the_other_leaves_the_tag_alone(harness: Harness) -> None:
    for repository, image in (("team/app", OLD), ("team/other", NEW)):
        harness.registry.put(image, repository, "v1")
    both_copy = threading.Barrier(2)

    def meet(request: Request, _: Reply) -> None:
        if request.method == "GET" and "/manifests/" in request.path:
            both_copy.wait(60)

    harness.registry.script(meet)
    sources = ("team/app:v1", "team/other:v1")
    with ThreadPoolExecutor(2) as pool:
        tasks = list(pool.map(lambda source: mirrored(harness, NEVER, source), sources))
    assert [task.state for task in tasks] == ["succeeded"] * 2
    [published] = [task for task in tasks if task.skipped is None]
    assert str(shown(harness)) == published.digest
    assert {task.digest for task in tasks} == {published.digest}


# -- immutable


def test_an_immutable_tag_that_its_source_moved_is_not_followed(harness: Harness) -> None:
    harness.registry.put(OLD, "team/app", "v1")
    assert mirrored(harness, IMMUTABLE).state == "succeeded"
    assert mirrored(harness, IMMUTABLE).unchanged
    harness.registry.put(NEW, "team/app", "v1")
    stored = harness.stored()
    task = mirrored(harness, IMMUTABLE)
    assert task.error
    assert (task.state, task.error.code, task.error.retryable) == ("failed", "TAG_DRIFTED", False)
    assert task.error.message == (
        f"The tag 'prod/app:v1' is immutable and shows {OLD.digest}, but its source now has {NEW.digest}"
    )
    assert "Delete the tag" in task.error.hint
    assert shown(harness) == OLD.digest
    assert harness.stored() == stored
    assert not [q for q in harness.registry.log() if any(str(digest) in q.path for digest in NEW.blobs)]


@pytest.mark.parametrize("overwrite", ["if-different", "always"])
def test_no_way_to_overwrite_moves_an_immutable_tag(harness: Harness, overwrite: Overwrite) -> None:
    options = CopyOptions(overwrite=overwrite, immutable=RELEASES)
    harness.registry.put(OLD, "team/app", "v1")
    mirrored(harness, options)
    harness.registry.put(NEW, "team/app", "v1")
    assert code_of(mirrored(harness, options)) == "TAG_DRIFTED"
    assert shown(harness) == OLD.digest


def test_the_tag_of_the_target_decides_whether_it_is_immutable(harness: Harness) -> None:
    for target, code in (("prod/app:v1", "TAG_DRIFTED"), ("prod/app:latest", None)):
        harness.registry.put(OLD, "team/app", "v1")
        mirrored(harness, IMMUTABLE, target=target)
        harness.registry.put(NEW, "team/app", "v1")
        assert code_of(mirrored(harness, IMMUTABLE, target=target)) == code


def test_an_immutable_tag_that_was_deleted_follows_its_source(harness: Harness) -> None:
    harness.registry.put(OLD, "team/app", "v1")
    target = copy_of(task_of(harness, harness.mirror("team/app:v1", "prod/app:v1"))).target
    harness.registry.put(NEW, "team/app", "v1")
    harness.core.deleter.delete(target, allowed=lambda _: True)
    assert mirrored(harness, IMMUTABLE).state == "succeeded"
    assert shown(harness) == NEW.digest


def test_drifted_tags_among_unchanged_ones_fail_alone(harness: Harness) -> None:
    wanted = [(f"team/app:v{number}", f"prod/app:v{number}") for number in range(16)]
    for number in range(16):
        harness.registry.put(OLD, "team/app", f"v{number}")
    harness.run_work_horses(submitted(harness, IMMUTABLE, *wanted))
    for number in (3, 11):
        harness.registry.put(NEW, "team/app", f"v{number}")
    job = harness.run_work_horses(submitted(harness, IMMUTABLE, *wanted))
    assert (job.state, job.images.unchanged, job.images.failed) == ("partial", 14, 2)
    codes = [code_of(task) for task in harness.jobs.tasks(job.id, 16)]
    assert [number for number, code in enumerate(codes) if code == "TAG_DRIFTED"] == [3, 11]


@pytest.mark.parametrize("moment", ["while blobs are copied", "right before the lock"])
def test_an_immutable_tag_that_appears_during_the_copy_with_another_digest_has_drifted(
    harness: Harness, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """The job that publishes first has the lower number, so it supersedes nothing."""
    harness.registry.put(OLD, "team/app", "v1")
    harness.registry.put(NEW, "team/other", "v1")
    first = submitted(harness, CopyOptions(), ("team/app:v1", "prod/app:v1"))
    [claimed] = harness.core.claimer.claim([(*harness.take(), NORMAL)], Cancellation())
    if moment == "right before the lock":
        before_the_lock(harness, monkeypatch, lambda: harness.core.runner.run(claimed))
    else:
        during_copy(harness, NEW, lambda: harness.core.runner.run(claimed))
    second = mirrored(harness, IMMUTABLE, "team/other:v1")
    assert harness.jobs.job(first.id).state == "succeeded"
    assert code_of(second) == "TAG_DRIFTED"
    assert shown(harness) == OLD.digest


def test_a_copy_that_a_later_job_overtook_is_superseded_and_has_not_drifted(harness: Harness) -> None:
    harness.registry.put(OLD, "team/app", "v1")

    def move_and_mirror() -> None:
        harness.registry.put(NEW, "team/app", "v1")
        assert mirrored(harness, IMMUTABLE).state == "succeeded"

    during_copy(harness, OLD, move_and_mirror)
    earlier = mirrored(harness, IMMUTABLE)
    assert (earlier.state, earlier.error) == ("succeeded", None)
    assert earlier.superseded_by
    assert shown(harness) == NEW.digest


# -- always


def test_always_publishes_an_unchanged_image_again_and_repairs_what_is_missing(harness: Harness) -> None:
    harness.registry.put(OLD, "team/app", "v1")
    harness.mirror("team/app:v1", "prod/app:v1")
    stored = harness.stored()
    config, layer = sorted(OLD.blobs, key=lambda digest: len(OLD.blobs[digest]))
    lost = [layout.layer_link_key("prod/app", config), layout.revision_link_key("prod/app", OLD.digest)]
    harness.bucket.delete([*lost, layout.blob_key(layer)])
    assert mirrored(harness, CopyOptions(referrers=NO_REFERRERS)).unchanged
    assert harness.stored() != stored
    asked = len(harness.registry.log())
    task = mirrored(harness, ALWAYS)
    assert (task.state, task.unchanged, task.skipped) == ("succeeded", False, None)
    assert harness.stored() == stored
    fetched = [q.path.rpartition("/")[2] for q in harness.registry.log()[asked:] if "/blobs/" in q.path]
    assert fetched == [str(layer)]


def test_always_fetches_no_blob_that_is_held(harness: Harness) -> None:
    harness.registry.put(OLD, "team/app", "v1")
    job = harness.run_work_horses(submitted(harness, ALWAYS, ("team/app:v1", "prod/app:v1")))
    asked = len(harness.registry.log())
    job = harness.run_work_horses(submitted(harness, ALWAYS, ("team/app:v1", "prod/app:v1")))
    assert (job.state, job.images.unchanged, job.bytes.copied) == ("succeeded", 0, 0)
    assert not [q for q in harness.registry.log()[asked:] if "/blobs/" in q.path]


# -- several targets of one source


def several(harness: Harness) -> Job:
    rules = [TargetRule("prod/{name}"), TargetRule("team/{name}", tag_suffix="-x"), TargetRule("old/{name}:stable")]
    job, _ = harness.core.submitter.submit([ImageRequest(f"{harness.registry.host}/team/app:v1", rules)])
    return job


def test_no_blob_is_fetched_twice_for_several_targets_of_one_source(harness: Harness) -> None:
    harness.registry.put(images.three_platforms("app"), "team/app", "v1")
    job = harness.run_work_horses(several(harness))
    assert (job.state, job.images.succeeded) == ("succeeded", 3)
    targets = {str(copy_of(task).target) for task in harness.jobs.tasks(job.id, 3)}
    assert targets == {"prod/app:v1", "team/app:v1-x", "old/app:stable"}
    blobs = [q.path for q in harness.registry.log() if "/blobs/" in q.path]
    assert len(blobs) == len(set(blobs)) > 0


def test_no_manifest_is_fetched_twice_from_a_source_that_counts_pulls(harness: Harness) -> None:
    harness.registry.put(images.three_platforms("app"), "team/app", "v1")
    harness.registry.script(PullLimit(100, window=600, clock=StoppedClock(harness.redis)))
    job = harness.run_tasks(several(harness))
    assert (job.state, job.images.succeeded) == ("succeeded", 3)
    reads = [q.path for q in harness.registry.log(method="GET", path="/manifests/")]
    assert len(reads) == len(set(reads)) == 4
