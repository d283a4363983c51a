"""Whatever dies in the release of an atomic job, all of its tags move in the end, or none of them."""

from __future__ import annotations

from typing import Any, Final

import pytest

from mirror.copying.cancellation import Cancellation
from mirror.jobs.cancel import cancel_job
from mirror.jobs.release import StrandedReleases
from mirror.oci.digest import Digest
from mirror.oci.local_image import LocalImage
from mirror.queue import NORMAL
from mirror.records.job import Job
from mirror.storage import layout
from mirror.storage.releases import ReleaseJournals
from tests.integration.catalog.support import always
from tests.support.harness import Harness
from tests.support.release_set import ReleaseSet, Shown, replaced_write
from tests.support.servers.s3 import RcloneS3

WRITES: Final = 8
"""Writes of a release of three tags that move: its journal twice, and for each tag its history and its link."""


@pytest.fixture
def s3_server(rclone_s3: RcloneS3) -> RcloneS3:
    """The order of the writes is the same on every server. test_release.py runs on both."""
    return rclone_s3


def test_whatever_write_kills_the_worker_the_next_one_moves_all_tags(harness: Harness) -> None:
    tags = ReleaseSet.of(harness, 2, fresh=1)
    job, task = tags.staged()
    for number in range(WRITES + 1):
        if number:
            assert tags.die(number, "after", task.id, task.fence)
        else:
            assert tags.die(1, "before", task.id, task.fence)
        assert bool(tags.journals()) == (number not in (0, WRITES))
        assert tags.journals() or tags.is_whole()
        tags.end_leases(job)
        tags.lose(job)
        task = tags.release_task(job)
        assert task.state == "queued"
        assert harness.run_tasks(job).state == "succeeded"
        assert (tags.shown(), tags.listed(), tags.journals()) == (tags.new, tags.new, [])
        tags = again(tags, number)
        job, task = tags.staged()


def again(tags: ReleaseSet, number: int) -> ReleaseSet:
    """Return a new set, whose tags no test has used."""
    return ReleaseSet.of(tags.harness, 2, fresh=1, prefix=f"team/set-{number}")


def test_a_release_that_loses_too_many_workers_is_undone(harness: Harness) -> None:
    tags = ReleaseSet.of(harness, 2, fresh=1)
    for number in (2, 6, WRITES - 1):
        job, task = tags.staged()
        assert tags.die(number, "after", task.id, task.fence)
        tags.lose(job)
        for _ in range(2):
            task = tags.release_task(job)
            assert harness.core.claims.claim([(task.id, task.fence, NORMAL)]) != [None]
            tags.lose(job)
        assert _code(harness.jobs.job(job.id)) == "WORKER_LOST"
        tags.end_leases(job)
        tags.recover()
        assert (tags.shown(), tags.listed(), tags.journals()) == (tags.old, tags.old, [])
        assert not [key for key in harness.stored() if "app-2:" in key and "/tags/" in key]
        tags = again(tags, number)


def test_a_release_that_dies_while_it_is_undone_is_undone(harness: Harness) -> None:
    tags = ReleaseSet.of(harness, 2, fresh=1)
    number = 1
    died = True
    while died:
        job, task = tags.staged()
        assert tags.die(WRITES - 1, "after", task.id, task.fence)
        cancel_job(harness.jobs, job.id)
        tags.lose(job)
        assert harness.jobs.job(job.id).state == "canceled"
        tags.end_leases(job)
        died = tags.die(number, "after", job.id)
        assert tags.journals() or tags.shown() == tags.old
        tags.end_leases(job)
        tags.recover()
        assert (tags.shown(), tags.listed(), tags.journals()) == (tags.old, tags.old, [])
        tags = again(tags, number)
        number += 1
    assert number > len(tags.new), "it died at each write that moves a tag back"


def test_a_release_whose_job_redis_lost_is_finished_as_its_journal_says(harness: Harness) -> None:
    tags = ReleaseSet.of(harness, 2, fresh=1)
    for number in (1, 2, 6, WRITES):
        _, task = tags.staged()
        assert tags.die(number, "before", task.id, task.fence)
        harness.redis.call("FLUSHALL")
        expected = tags.new if tags.journals() else tags.old
        tags.recover()
        assert (tags.shown(), tags.journals()) == (expected, [])
        tags = again(tags, number)


def test_a_tag_that_was_changed_after_redis_was_lost_is_left_alone(harness: Harness) -> None:
    """One change is recorded in the new Redis, and another one puts back what the tag showed before the release."""
    tags = ReleaseSet.of(harness, 3)
    _, task = tags.staged()
    assert tags.die(5, "after", task.id, task.fence)
    harness.redis.call("FLUSHALL")
    other = tags.move_source("team/app-1:1", "other")
    assert harness.mirror(tags.source("team/app-1:1"), "team/app-1:1").state == "succeeded"
    name = LocalImage.parse("team/app-2:1")
    old = tags.old["team/app-2:1"]
    harness.core.retagger.retag(name, LocalImage(name.repository, digest=old), allowed=always)
    tags.recover()
    expected: Shown = {**tags.new, "team/app-1:1": other, "team/app-2:1": old}
    assert (tags.shown(), tags.journals()) == (expected, [])


def test_a_job_that_was_deleted_leaves_no_journal(harness: Harness) -> None:
    tags = ReleaseSet.of(harness, 3)
    job, task = tags.staged()
    assert tags.die(5, "after", task.id, task.fence)
    cancel_job(harness.jobs, job.id)
    tags.lose(job)
    harness.jobs.delete(job.id)
    tags.end_leases(job)
    tags.recover()
    assert (tags.is_whole(), tags.journals()) == (True, [])


def test_the_scheduler_leaves_a_release_alone_whose_job_is_open(harness: Harness) -> None:
    tags = ReleaseSet.of(harness, 3)
    job, task = tags.staged()
    assert tags.die(5, "after", task.id, task.fence)
    tags.end_leases(job)
    before = tags.shown()
    tags.recover()
    assert (tags.shown(), len(tags.journals())) == (before, 1)


@pytest.mark.parametrize("moment", ["before the journal", "after the journal"])
def test_a_worker_that_lost_its_lease_moves_no_more_tags(harness: Harness, moment: str) -> None:
    """It was frozen. Another worker has finished its release, and a later job has moved the tag."""
    tags = ReleaseSet.of(harness, 1)
    [target] = tags.new
    job, task = tags.staged()
    [frozen] = harness.core.claimer.claim([(task.id, task.fence, NORMAL)], Cancellation())
    moved: list[Digest] = []
    begin = frozen.heartbeat.begin_publishing

    def overtake() -> None:
        if not moved:
            moved.append(tags.move_source(target, "other"))
            tags.end_leases(job)
            tags.lose(job)
            assert harness.run_tasks(job).state == "succeeded"
            assert tags.shown() == tags.new
            assert harness.mirror(tags.source(target), target).state == "succeeded"

    def begin_and_freeze() -> None:
        begin()
        overtake()

    def freeze(write: Any, *args: Any, **options: Any) -> None:
        overtake()
        write(*args, **options)

    if moment == "after the journal":
        with replaced_write("add_to_history", freeze):
            harness.core.runner.run(frozen)
    else:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(frozen.heartbeat, "begin_publishing", begin_and_freeze)
            harness.core.runner.run(frozen)
    assert tags.shown() == {target: moved[0]}
    assert harness.jobs.job(job.id).state == "succeeded"
    assert tags.journals() == []


def test_a_journal_is_left_alone_until_the_last_write_of_its_worker_must_have_ended(harness: Harness) -> None:
    tags = ReleaseSet.of(harness, 3)
    _, task = tags.staged()
    assert tags.die(5, "after", task.id, task.fence)
    harness.redis.call("FLUSHALL")
    before = tags.shown()
    journals = ReleaseJournals(harness.bucket)
    patient = StrandedReleases(harness.jobs, journals, harness.core.releaser, wait=3600)
    for _ in range(2):
        patient.finish(lambda: True)
    assert (tags.shown(), len(tags.journals())) == (before, 1)
    StrandedReleases(harness.jobs, journals, harness.core.releaser, wait=0).finish(lambda: True)
    assert (tags.shown(), tags.journals()) == (tags.new, [])


def test_a_journal_that_cannot_be_read_delays_no_other(harness: Harness) -> None:
    tags = ReleaseSet.of(harness, 3)
    _, task = tags.staged()
    assert tags.die(5, "after", task.id, task.fence)
    harness.redis.call("FLUSHALL")
    damaged = layout.release_key("a-journal")
    harness.bucket.put(damaged, b'{"state": "moving"')
    tags.recover()
    assert (tags.shown(), tags.journals()) == (tags.new, [damaged])


def test_a_redis_that_is_emptied_while_tags_move_stops_the_worker_and_the_scheduler_completes_the_release(
    harness: Harness,
) -> None:
    tags = ReleaseSet.of(harness, 2, fresh=1)
    job, _ = tags.staged()

    def lose_redis(write: Any, *args: Any, **options: Any) -> None:
        harness.redis.call("FLUSHALL")
        write(*args, **options)

    with replaced_write("add_to_history", lose_redis):
        for task in harness.jobs.tasks(job.id, 10):
            for claimed in harness.core.claimer.claim([(task.id, task.fence, NORMAL)], Cancellation()):
                harness.core.runner.run(claimed)
    assert (tags.shown(), len(tags.journals())) == (tags.old, 1)
    tags.recover()
    assert (tags.shown(), tags.listed(), tags.journals()) == (tags.new, tags.new, [])


def _code(job: Job) -> str | None:
    return job.error.code if job.error else None
