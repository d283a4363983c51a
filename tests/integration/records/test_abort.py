"""A job that is to end at its first failure: what it cancels, what it says then, and what a retry does."""

from __future__ import annotations

import pytest

from mirror.errors import JobFinished
from mirror.queue import NORMAL
from mirror.records.claims import ClaimState, Outcome
from mirror.records.job import Job, JobOptions
from mirror.records.spec import CopySpec
from mirror.records.states import STEP, WINDOW
from mirror.records.task import ErrorReport, Task
from mirror.redis import keys
from mirror.redis.client import Redis
from tests.integration.records.submitted import DIGEST, LOST, claimed, lose, read
from tests.support.records import Records

ABORT = JobOptions(on_error="abort")
LATER = ErrorReport("NAME_UNKNOWN", "a later failure", retryable=False, hint="none")


def submitted(records: Records, count: int, options: JobOptions = ABORT) -> tuple[Job, list[Task]]:
    specs = [CopySpec.parse(f"docker.io/library/app{n}:1", f"app{n}:1") for n in range(count)]
    job, tasks, _ = records.jobs.submit(specs, options)
    return job, tasks


def reconcile(records: Records) -> None:
    """Take the steps that are due, as the reconciler does."""
    for job_id in records.recovery.unfinished_requests():
        while records.recovery.continue_request(job_id)[0]:
            pass


def test_what_waits_is_canceled_and_what_runs_is_stopped(records: Records, redis: Redis) -> None:
    job, tasks = submitted(records, WINDOW + STEP)
    failing, running = (claimed(records, task) for task in tasks[:2])
    records.settle(failing, "failed", Outcome(error=LOST))
    assert records.released == []
    assert records.claims.states([running]) == [ClaimState.CANCELING]
    assert records.claim(tasks[2].id, 0) is None
    reconcile(records)
    now = records.jobs.job(job.id)
    assert (now.state, now.error, now.images.failed, now.images.canceled) == ("running", LOST, 1, WINDOW + STEP - 2)
    assert records.settle(running, "canceled", Outcome())
    ended = records.jobs.job(job.id)
    assert (ended.state, ended.images.canceled, ended.cancel_requested_at) == ("failed", WINDOW + STEP - 1, None)
    assert ended.finished_at is not None
    for key in (keys.TASKS_QUEUED, keys.TASKS_RUNNING, keys.JOBS_WATCHED):
        assert redis.call("ZCARD", key) == 0
    assert redis.call("EXISTS", keys.job_pending(job.id), keys.job_share(job.id)) == 0


def test_the_first_error_is_the_jobs_and_later_failures_are_cancellations(records: Records) -> None:
    job, tasks = submitted(records, 3)
    one, two, three = (claimed(records, task) for task in tasks)
    records.settle(one, "succeeded", Outcome(DIGEST))
    records.settle(two, "failed", Outcome(error=LOST))
    records.settle(three, "failed", Outcome(error=LATER))
    ended = records.jobs.job(job.id)
    assert (ended.state, ended.error) == ("partial", LOST)
    assert [read(records, task).state for task in tasks] == ["succeeded", "failed", "canceled"]


def test_an_image_that_was_published_in_spite_of_it_is_a_success(records: Records) -> None:
    job, tasks = submitted(records, 2)
    one, two = (claimed(records, task) for task in tasks)
    records.settle(one, "failed", Outcome(error=LOST))
    records.settle(two, "succeeded", Outcome(DIGEST))
    assert records.jobs.job(job.id).state == "partial"


@pytest.mark.parametrize("cause", ["a lost worker", "a patience that has ended", "a record that cannot be written"])
def test_every_way_to_fail_aborts(records: Records, redis: Redis, cause: str) -> None:
    job, tasks = submitted(records, 2)
    claim = claimed(records, tasks[0])
    if cause == "a lost worker":
        redis.call("HSET", keys.task(tasks[0].id), "losses", 2)
        lose(redis, tasks[0].id)
        assert records.recovery.expire(tasks[0].id, LOST) == []
    elif cause == "a patience that has ended":
        records.claims.release(claim, wait=60, fails_with=LOST)
        redis.call("ZADD", keys.TASKS_PARKED, 1, tasks[0].id)
        assert records.recovery.unpark(tasks[0].id) == []
    else:
        assert records.claims.abandon(claim)
    reconcile(records)
    ended = records.jobs.job(job.id)
    assert (ended.state, ended.images.failed, ended.images.canceled) == ("failed", 1, 1)


def test_a_retry_restarts_what_failed_and_what_was_canceled_and_may_be_aborted_again(records: Records) -> None:
    job, tasks = submitted(records, 3)
    records.settle(claimed(records, tasks[0]), "succeeded", Outcome(DIGEST))
    records.settle(claimed(records, tasks[1]), "failed", Outcome(error=LOST))
    reconcile(records)
    assert records.jobs.job(job.id).state == "partial"
    assert records.jobs.retry(job.id) == [(tasks[1].id, 2, NORMAL), (tasks[2].id, 1, NORMAL)]
    now = records.jobs.job(job.id)
    assert (now.state, now.error, now.images.canceled) == ("queued", None, 0)
    claim = records.claim(tasks[2].id, 1)
    assert claim is not None
    records.settle(claim, "failed", Outcome(error=LATER))
    reconcile(records)
    ended = records.jobs.job(job.id)
    assert (ended.state, ended.error, ended.images.failed, ended.images.canceled) == ("partial", LATER, 1, 1)


def test_a_retry_of_a_large_job_that_fails_between_two_steps_is_aborted(records: Records, redis: Redis) -> None:
    job, tasks = submitted(records, 2 * STEP)
    records.jobs.cancel(job.id)
    step = records.jobs._step
    [first, *_] = [fence for _, fence, _ in records.jobs.retry(job.id)]
    claim = records.claim(tasks[0].id, first)
    assert claim is not None
    records.settle(claim, "failed", Outcome(error=LOST))
    assert step(args=[job.id])[0] == 1
    reconcile(records)
    while step(args=[job.id])[0]:
        pass
    ended = records.jobs.job(job.id)
    assert (ended.state, ended.images.failed, ended.images.canceled) == ("failed", 1, 2 * STEP - 1)


def test_an_aborted_job_can_be_canceled_once_more_until_it_has_ended(records: Records) -> None:
    job, tasks = submitted(records, 3)
    one, two = (claimed(records, task) for task in tasks[:2])
    records.settle(one, "failed", Outcome(error=LOST))
    records.jobs.cancel(job.id)
    assert records.jobs.job(job.id).images.canceled == 1
    records.settle(two, "canceled", Outcome())
    assert records.jobs.job(job.id).state == "failed"
    with pytest.raises(JobFinished):
        records.jobs.cancel(job.id)


def test_a_job_that_is_to_continue_continues(records: Records) -> None:
    job, tasks = submitted(records, 2, JobOptions())
    records.settle(claimed(records, tasks[0]), "failed", Outcome(error=LOST))
    reconcile(records)
    records.settle(claimed(records, tasks[1]), "succeeded", Outcome(DIGEST))
    assert records.jobs.job(job.id).state == "partial"


def test_an_atomic_job_that_is_aborted_releases_nothing(records: Records) -> None:
    job, tasks = submitted(records, 3, JobOptions(on_error="abort", atomic=True))
    one, two = (claimed(records, task) for task in tasks[:2])
    records.settle(one, "succeeded", Outcome(staged=1))
    records.settle(two, "failed", Outcome(error=LOST))
    reconcile(records)
    ended = records.jobs.job(job.id)
    assert (ended.state, ended.images.total, ended.images.canceled) == ("failed", 3, 1)
    assert [task.state for task in records.jobs.tasks(job.id, 9)] == ["succeeded", "failed", "canceled", "canceled"]
