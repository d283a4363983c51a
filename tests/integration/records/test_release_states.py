"""The release task of an atomic job: when it is queued, and how the job ends with it."""

from __future__ import annotations

import json

import pytest

from mirror.records.claims import Claim, Outcome
from mirror.records.job import Job, JobOptions, OnError
from mirror.records.jobs import Entry
from mirror.records.spec import ReleaseSpec
from mirror.records.task import Task
from mirror.redis import keys
from mirror.redis.client import Redis
from tests.integration.records.submitted import DIGEST, LOST, SPEC, claimed, lose, read
from tests.support.records import Records


def atomic(records: Records, count: int, on_error: OnError = "continue") -> tuple[Job, list[Task], Task]:
    """Submit an atomic job. Return it, its images, and its release task."""
    job, tasks, _ = records.jobs.submit([SPEC] * count, JobOptions(atomic=True, on_error=on_error))
    [release] = records.jobs.tasks(job.id, count + 1)[count:]
    assert isinstance(release.spec, ReleaseSpec)
    return job, tasks, release


def settle(records: Records, tasks: list[Task], state: str = "succeeded") -> None:
    for task in tasks:
        outcome = Outcome(DIGEST, staged=1) if state == "succeeded" else Outcome(error=LOST)
        assert records.settle(claimed(records, task), state, outcome)


def released(records: Records, redis: Redis, release: Task) -> bool:
    """Whether the release task is queued, with an entry that was added once."""
    is_queued = redis.call("ZSCORE", keys.TASKS_QUEUED, release.id) is not None
    entries = [entry for entry in records.released if entry[0] == release.id]
    assert len(entries) <= 1
    assert bool(entries) == is_queued
    return is_queued


def test_the_release_is_queued_when_all_images_have_succeeded_and_not_before(records: Records, redis: Redis) -> None:
    job, tasks, release = atomic(records, 3)
    assert records.jobs.job(job.id).images.total == 3
    settle(records, tasks[:2])
    assert not released(records, redis, release)
    assert records.claim(release.id, release.fence) is None
    settle(records, tasks[2:])
    assert released(records, redis, release)
    now = records.jobs.job(job.id)
    assert (now.state, now.images.succeeded, now.finished_at) == ("queued", 3, None)


def test_the_job_ends_as_its_release_ends_and_shows_its_window(records: Records) -> None:
    job, tasks, release = atomic(records, 2)
    settle(records, tasks)
    claim = claimed(records, release)
    assert records.jobs.job(job.id).state == "running"
    assert records.settle(claim, "succeeded", Outcome(release_window=17))
    ended = records.jobs.job(job.id)
    assert (ended.state, ended.release_window, ended.images.succeeded) == ("succeeded", 17, 2)
    assert ended.finished_at is not None


def test_a_release_that_fails_fails_the_job_with_its_error(records: Records) -> None:
    job, tasks, release = atomic(records, 2)
    settle(records, tasks)
    assert records.settle(claimed(records, release), "failed", Outcome(error=LOST))
    ended = records.jobs.job(job.id)
    assert (ended.state, ended.error, ended.images.succeeded, ended.images.failed) == ("failed", LOST, 2, 0)


@pytest.mark.parametrize("order", [1, -1])
def test_one_failed_image_fails_the_job_and_the_release_never_runs(records: Records, redis: Redis, order: int) -> None:
    job, tasks, release = atomic(records, 3)
    for task, state in list(zip(tasks, ["failed", "succeeded", "succeeded"], strict=True))[::order]:
        settle(records, [task], state)
    assert not released(records, redis, release)
    ended = records.jobs.job(job.id)
    assert (ended.state, ended.images.succeeded, ended.images.failed) == ("failed", 2, 1)
    assert read(records, release).state == "queued"
    assert redis.call("ZSCORE", keys.JOBS_ENDED, job.id) is not None


def test_a_retry_runs_the_failed_image_and_then_the_release(records: Records, redis: Redis) -> None:
    job, tasks, release = atomic(records, 2)
    settle(records, tasks[:1])
    settle(records, tasks[1:], "failed")
    assert [entry[0] for entry in records.jobs.retry(job.id)] == [tasks[1].id]
    settle(records, [read(records, tasks[1])])
    assert released(records, redis, release)
    assert records.settle(claimed(records, release), "succeeded", Outcome(release_window=1))
    assert records.jobs.job(job.id).state == "succeeded"


def test_a_retry_of_a_failed_release_runs_only_that(records: Records) -> None:
    job, tasks, release = atomic(records, 2)
    settle(records, tasks)
    assert records.settle(claimed(records, release), "failed", Outcome(error=LOST))
    [entry] = records.jobs.retry(job.id)
    again = read(records, release)
    assert entry[:2] == (release.id, again.fence)
    now = records.jobs.job(job.id)
    assert (now.state, now.error, now.images.succeeded) == ("queued", None, 2)
    assert records.settle(claimed(records, again), "succeeded", Outcome(release_window=1))
    assert records.jobs.job(job.id).state == "succeeded"
    assert [read(records, task).attempt for task in tasks] == [1, 1]


def test_a_cancel_before_the_release_ends_the_job_without_it(records: Records, redis: Redis) -> None:
    job, tasks, release = atomic(records, 2)
    settle(records, tasks[:1])
    last = claimed(records, tasks[1])
    records.jobs.cancel(job.id)
    assert read(records, release).state == "canceled"
    assert records.settle(last, "succeeded", Outcome(DIGEST, staged=1))
    ended = records.jobs.job(job.id)
    assert (ended.state, ended.images.succeeded, ended.images.canceled) == ("canceled", 2, 0)
    assert not released(records, redis, release)
    [entry] = records.jobs.retry(job.id)
    assert entry[0] == release.id


@pytest.mark.parametrize(("state", "expected"), [("succeeded", "succeeded"), ("failed", "canceled")])
def test_a_cancel_during_the_release_counts_unless_it_succeeds(records: Records, state: str, expected: str) -> None:
    job, tasks, release = atomic(records, 2)
    settle(records, tasks)
    claim = claimed(records, release)
    records.jobs.cancel(job.id)
    assert records.jobs.job(job.id).state == "running"
    outcome = Outcome(release_window=1) if state == "succeeded" else Outcome(error=LOST)
    assert records.settle(claim, state, outcome)
    assert records.jobs.job(job.id).state == expected


def test_a_release_that_waits_or_loses_its_worker_keeps_the_job_open(records: Records, redis: Redis) -> None:
    job, tasks, release = atomic(records, 1)
    settle(records, tasks)
    assert records.claims.release(claimed(records, release), wait=5)
    assert records.jobs.job(job.id).state == "queued"
    redis.call("ZADD", keys.TASKS_PARKED, 1, release.id)
    [(_, fence, _)] = records.recovery.unpark(release.id)
    assert records.claim(release.id, fence)
    lose(redis, release.id)
    [(task_id, _, _)] = records.recovery.expire(release.id, LOST)
    assert task_id == release.id
    now = records.jobs.job(job.id)
    assert (now.state, now.finished_at) == ("queued", None)


def test_an_aborted_job_fails_and_never_releases(records: Records, redis: Redis) -> None:
    job, tasks, release = atomic(records, 3, "abort")
    settle(records, tasks[:1], "failed")
    entries: list[Entry] = []
    more = True
    while more:
        more, added = records.recovery.continue_request(job.id)
        entries += added
    ended = records.jobs.job(job.id)
    assert (ended.state, ended.images.failed, ended.images.canceled) == ("failed", 1, 2)
    assert entries == []
    assert not released(records, redis, release)


def test_a_large_atomic_job_is_released_once_and_removed_with_its_release(redis: Redis) -> None:
    """It has more images than one script touches, and each of the last ones could be the one that releases it."""
    records = Records.on(redis)
    job, tasks, release = atomic(records, 600)
    waiting = [task for task in tasks if redis.call("ZSCORE", keys.TASKS_QUEUED, task.id)]
    while waiting:
        claims: list[Claim] = [claimed(records, task) for task in waiting]
        records.claims.settle("succeeded", [(claim, Outcome(DIGEST, staged=1)) for claim in claims])
        ids = [entry[0] for entry in records.released if entry[0] != release.id]
        records.released[:] = [entry for entry in records.released if entry[0] == release.id]
        waiting = [task for task in map(records.jobs.task, ids) if task]
    assert released(records, redis, release)
    assert records.settle(claimed(records, release), "succeeded", Outcome(release_window=1))
    records.jobs.delete(job.id)
    assert not redis.call("EXISTS", keys.task(release.id))


def test_a_record_of_a_release_is_read_as_it_was_written(records: Records, redis: Redis) -> None:
    _, _, release = atomic(records, 1)
    stored = redis.call("HGETALL", keys.task(release.id))
    assert (stored["kind"], json.loads(stored["spec"])["kind"]) == ("release", "release")
    assert read(records, release) == release
