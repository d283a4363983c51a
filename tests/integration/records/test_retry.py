from __future__ import annotations

import pytest

from mirror.errors import JobSucceeded, JobUnfinished, JobUnknown
from mirror.queue import NORMAL
from mirror.records.claims import Claim, Outcome
from mirror.records.job import ByteCounts, ImageCounts, Job
from mirror.records.states import JobState, job_script
from mirror.records.task import BlobReport, Task
from mirror.redis import keys
from mirror.redis.client import Redis
from tests.integration.records.submitted import DIGEST, LOST, claimed, lose, read, submitted
from tests.support.records import Records


def progressed(records: Records, claim: Claim, counts: ByteCounts) -> None:
    blob = BlobReport(DIGEST, counts.total, "failed", counts.copied)
    assert records.claims.progress(claim, [(0, blob)], counts, digest=DIGEST, checkpoints=0)


def failed(records: Records, count: int = 1) -> tuple[Job, list[Task]]:
    job, tasks = submitted(records, count)
    for task in tasks:
        claim = claimed(records, task)
        progressed(records, claim, ByteCounts(100, 40, 0))
        records.settle(claim, "failed", Outcome(error=LOST))
    return job, tasks


def test_a_failed_job_is_as_new_but_for_its_attempt_and_its_fence(records: Records, redis: Redis) -> None:
    job, [task] = failed(records)
    assert records.jobs.retry(job.id) == [(task.id, 2, NORMAL)]
    now, begun = records.jobs.job(job.id), read(records, task)
    assert now.images == ImageCounts(total=1)
    assert (now.state, now.attempt, now.bytes) == ("queued", 2, ByteCounts())
    assert (now.error, now.digest, now.started_at, now.finished_at) == (None, None, None, None)
    assert (begun.state, begun.attempt, begun.losses, begun.fence) == ("queued", 2, 0, 2)
    assert (begun.error, begun.digest, begun.started_at, begun.finished_at) == (None, None, None, None)
    assert begun.created_at == job.created_at
    assert records.jobs.blobs_of([task.id])[0] == []
    assert redis.call("ZRANGE", keys.TASKS_QUEUED, 0, -1) == [task.id]


def test_a_retried_task_is_claimed_by_its_new_entry_only_and_may_succeed(records: Records) -> None:
    job, _ = failed(records)
    [(task_id, fence, _)] = records.jobs.retry(job.id)
    assert [records.claim(task_id, stale) for stale in range(fence)] == [None, None]
    claim = records.claim(task_id, fence)
    assert claim is not None
    assert records.jobs.job(job.id).started_at is not None
    progressed(records, claim, ByteCounts(70, 70, 0))
    assert records.settle(claim, "succeeded", Outcome(DIGEST))
    ended = records.jobs.job(job.id)
    assert (ended.state, ended.bytes, ended.digest, ended.error) == ("succeeded", ByteCounts(70, 70, 0), DIGEST, None)
    assert ended.images == ImageCounts(total=1, succeeded=1)


def test_what_succeeded_is_left_alone(records: Records) -> None:
    job, [one, two, three] = submitted(records, 3)
    first, second = claimed(records, one), claimed(records, two)
    progressed(records, first, ByteCounts(10, 10, 0))
    progressed(records, second, ByteCounts(100, 40, 20))
    records.settle(first, "succeeded", Outcome(DIGEST, unchanged=True))
    records.settle(second, "failed", Outcome(error=LOST))
    records.jobs.cancel(job.id)
    assert records.jobs.job(job.id).state == "partial"
    untouched = read(records, one)
    assert records.jobs.retry(job.id) == [(two.id, 2, NORMAL), (three.id, 1, NORMAL)]
    now = records.jobs.job(job.id)
    assert (now.state, now.bytes) == ("queued", ByteCounts(10, 10, 0))
    assert now.images == ImageCounts(3, succeeded=1, unchanged=1)
    assert read(records, one) == untouched
    for task_id, fence in [(two.id, 2), (three.id, 1)]:
        claim = records.claim(task_id, fence)
        assert claim is not None
        records.settle(claim, "succeeded", Outcome(DIGEST))
    assert records.jobs.job(job.id).state == "succeeded"


def test_a_canceled_job_is_not_canceled_any_more(records: Records) -> None:
    job, [task] = submitted(records)
    records.jobs.cancel(job.id)
    assert records.jobs.retry(job.id) == [(task.id, 1, NORMAL)]
    now = records.jobs.job(job.id)
    assert (now.state, now.cancel_requested_at, now.images.canceled) == ("queued", None, 0)
    assert records.claim(task.id, 0) is None
    claim = records.claim(task.id, 1)
    assert claim is not None
    records.settle(claim, "failed", Outcome(error=LOST))
    assert records.jobs.job(job.id).state == "failed"
    assert [found.id for found in records.jobs.page(limit=5, before=None, state="canceled", source=None)[0]] == []


def test_a_retried_job_can_be_canceled_again(records: Records) -> None:
    job, [task] = submitted(records)
    records.jobs.cancel(job.id)
    records.jobs.retry(job.id)
    records.jobs.cancel(job.id)
    assert records.jobs.job(job.id).state == "canceled"
    assert records.claim(task.id, 1) is None


def test_the_losses_of_before_do_not_count(records: Records, redis: Redis) -> None:
    job, [task] = submitted(records)
    for fence in range(3):
        assert records.claim(task.id, fence) is not None
        lose(redis, task.id)
        records.recovery.expire(task.id, LOST)
    assert records.jobs.job(job.id).error == LOST
    assert records.jobs.retry(job.id) == [(task.id, 4, NORMAL)]
    assert records.claim(task.id, 4) is not None
    lose(redis, task.id)
    assert records.recovery.expire(task.id, LOST) == [(task.id, 5, NORMAL)]
    assert (read(records, task).losses, records.jobs.job(job.id).attempt) == (1, 5)


def test_a_worker_of_before_can_write_nothing(records: Records, redis: Redis) -> None:
    job, [task] = submitted(records)
    late = claimed(records, task)
    records.jobs.cancel(job.id)
    lose(redis, task.id)
    records.recovery.expire(task.id, LOST)
    records.jobs.retry(job.id)
    assert not records.claims.renew(late)
    assert not records.settle(late, "succeeded", Outcome(DIGEST))
    assert not records.claims.release(late)
    assert records.jobs.job(job.id).state == "queued"


def test_a_worker_that_settled_before_can_give_nothing_back(records: Records) -> None:
    job, [task] = submitted(records)
    settled = claimed(records, task)
    records.settle(settled, "failed", Outcome(error=LOST))
    assert not records.claims.release(settled)
    records.jobs.retry(job.id)
    assert not records.claims.release(settled)


def test_a_job_that_ran_into_the_patience_of_its_task_gets_all_of_it_again(records: Records, redis: Redis) -> None:
    job, [task] = failed(records)
    redis.call("SET", keys.task_waits(task.id), 1)
    records.jobs.retry(job.id)
    assert redis.call("EXISTS", keys.task_waits(task.id)) == 0


def test_retrying_twice_is_refused_and_changes_nothing(records: Records) -> None:
    job, _ = failed(records)
    records.jobs.retry(job.id)
    queued = records.jobs.job(job.id)
    with pytest.raises(JobUnfinished, match="queued"):
        records.jobs.retry(job.id)
    assert records.jobs.job(job.id) == queued


def test_a_job_that_is_being_canceled_cannot_be_retried_yet(records: Records) -> None:
    job, [task] = submitted(records)
    claimed(records, task)
    records.jobs.cancel(job.id)
    with pytest.raises(JobUnfinished, match="running"):
        records.jobs.retry(job.id)


def test_a_job_that_succeeded_is_not_retried(records: Records) -> None:
    job, [task] = submitted(records)
    records.settle(claimed(records, task), "succeeded", Outcome(DIGEST))
    with pytest.raises(JobSucceeded):
        records.jobs.retry(job.id)


def test_an_unknown_job_cannot_be_retried(records: Records) -> None:
    with pytest.raises(JobUnknown):
        records.jobs.retry("job_unknown")


@pytest.mark.parametrize("state", ["queued", "failed"])
def test_a_request_that_is_sent_twice_finds_its_own_work(records: Records, redis: Redis, state: JobState) -> None:
    """The connection broke before the answer arrived.

    A worker may have ended the task before the second one.
    """
    job, [task] = failed(records)
    retry = redis.script(job_script("retry.lua"))
    assert retry(args=[job.id, "one"]) == [1, "failed", 0, task.id, 2, NORMAL]
    if state == "failed":
        claim = records.claim(task.id, 2)
        assert claim is not None
        records.settle(claim, "failed", Outcome(error=LOST))
    again = [] if state == "failed" else [task.id, 2, NORMAL]
    assert retry(args=[job.id, "one"]) == [1, state, 0, *again]
    assert (records.jobs.job(job.id).state, records.jobs.job(job.id).attempt) == (state, 2)
