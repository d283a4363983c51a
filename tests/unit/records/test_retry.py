from __future__ import annotations

import pytest

from mirror.errors import JobSucceeded, JobUnfinished, JobUnknown
from mirror.records import request_scripts
from mirror.records.job import ByteCounts, ImageCounts, Job, JobState
from mirror.records.store import Claim, JobStore, Outcome
from mirror.records.task import BlobReport, Task
from mirror.redis import keys
from mirror.redis.client import Redis
from tests.unit.records.submitted import DIGEST, LOST, claimed, lose, read, submitted


def progressed(store: JobStore, claim: Claim, counts: ByteCounts) -> None:
    blob = BlobReport(DIGEST, counts.total, "failed", counts.copied)
    assert store.progress(claim, [(0, blob)], counts, digest=DIGEST, checkpoints=0)


def failed(store: JobStore, count: int = 1) -> tuple[Job, list[Task]]:
    job, tasks = submitted(store, count)
    for task in tasks:
        claim = claimed(store, task)
        progressed(store, claim, ByteCounts(100, 40, 0))
        store.settle(claim, "failed", Outcome(error=LOST))
    return job, tasks


def test_a_failed_job_is_as_new_but_for_its_attempt_and_its_fence(store: JobStore, redis: Redis) -> None:
    job, [task] = failed(store)
    assert store.retry(job.id) == [(task.id, 2)]
    now, begun = store.job(job.id), read(store, task)
    assert now.images == ImageCounts(total=1)
    assert (now.state, now.attempt, now.bytes) == ("queued", 2, ByteCounts())
    assert (now.error, now.digest, now.started_at, now.finished_at) == (None, None, None, None)
    assert (begun.state, begun.attempt, begun.losses, begun.fence) == ("queued", 2, 0, 2)
    assert (begun.error, begun.digest, begun.started_at, begun.finished_at) == (None, None, None, None)
    assert begun.created_at == job.created_at
    assert store.blobs_of([task.id])[0] == []
    assert redis.call("ZRANGE", keys.TASKS_QUEUED, 0, -1) == [task.id]


def test_a_retried_task_is_claimed_by_its_new_entry_only_and_may_succeed(store: JobStore) -> None:
    job, _ = failed(store)
    [(task_id, fence)] = store.retry(job.id)
    assert [store.claim(task_id, stale) for stale in range(fence)] == [None, None]
    claim = store.claim(task_id, fence)
    assert claim is not None
    assert store.job(job.id).started_at is not None
    progressed(store, claim, ByteCounts(70, 70, 0))
    assert store.settle(claim, "succeeded", Outcome(DIGEST))
    ended = store.job(job.id)
    assert (ended.state, ended.bytes, ended.digest, ended.error) == ("succeeded", ByteCounts(70, 70, 0), DIGEST, None)
    assert ended.images == ImageCounts(total=1, succeeded=1)


def test_what_succeeded_is_left_alone(store: JobStore) -> None:
    job, [one, two, three] = submitted(store, 3)
    first, second = claimed(store, one), claimed(store, two)
    progressed(store, first, ByteCounts(10, 10, 0))
    progressed(store, second, ByteCounts(100, 40, 20))
    store.settle(first, "succeeded", Outcome(DIGEST, unchanged=True))
    store.settle(second, "failed", Outcome(error=LOST))
    store.cancel(job.id)
    assert store.job(job.id).state == "partial"
    untouched = read(store, one)
    assert store.retry(job.id) == [(two.id, 2), (three.id, 1)]
    now = store.job(job.id)
    assert (now.state, now.bytes) == ("queued", ByteCounts(10, 10, 0))
    assert now.images == ImageCounts(3, succeeded=1, unchanged=1)
    assert read(store, one) == untouched
    for task_id, fence in [(two.id, 2), (three.id, 1)]:
        claim = store.claim(task_id, fence)
        assert claim is not None
        store.settle(claim, "succeeded", Outcome(DIGEST))
    assert store.job(job.id).state == "succeeded"


def test_a_canceled_job_is_not_canceled_any_more(store: JobStore) -> None:
    job, [task] = submitted(store)
    store.cancel(job.id)
    assert store.retry(job.id) == [(task.id, 1)]
    now = store.job(job.id)
    assert (now.state, now.cancel_requested_at, now.images.canceled) == ("queued", None, 0)
    assert store.claim(task.id, 0) is None
    claim = store.claim(task.id, 1)
    assert claim is not None
    store.settle(claim, "failed", Outcome(error=LOST))
    assert store.job(job.id).state == "failed"
    assert [found.id for found in store.page(limit=5, before=None, state="canceled", source=None)[0]] == []


def test_a_retried_job_can_be_canceled_again(store: JobStore) -> None:
    job, [task] = submitted(store)
    store.cancel(job.id)
    store.retry(job.id)
    store.cancel(job.id)
    assert store.job(job.id).state == "canceled"
    assert store.claim(task.id, 1) is None


def test_the_losses_of_before_do_not_count(store: JobStore, redis: Redis) -> None:
    job, [task] = submitted(store)
    for fence in range(3):
        assert store.claim(task.id, fence) is not None
        lose(redis, task.id)
        store.expire(task.id, LOST)
    assert store.job(job.id).error == LOST
    assert store.retry(job.id) == [(task.id, 4)]
    assert store.claim(task.id, 4) is not None
    lose(redis, task.id)
    assert store.expire(task.id, LOST) == 5
    assert (read(store, task).losses, store.job(job.id).attempt) == (1, 5)


def test_a_worker_of_before_can_write_nothing(store: JobStore, redis: Redis) -> None:
    job, [task] = submitted(store)
    late = claimed(store, task)
    store.cancel(job.id)
    lose(redis, task.id)
    store.expire(task.id, LOST)
    store.retry(job.id)
    assert not store.renew(late)
    assert not store.settle(late, "succeeded", Outcome(DIGEST))
    assert not store.release(late)
    assert store.job(job.id).state == "queued"


def test_a_worker_that_settled_before_can_give_nothing_back(store: JobStore) -> None:
    job, [task] = submitted(store)
    settled = claimed(store, task)
    store.settle(settled, "failed", Outcome(error=LOST))
    assert not store.release(settled)
    store.retry(job.id)
    assert not store.release(settled)


def test_a_job_that_ran_into_the_patience_of_its_task_gets_all_of_it_again(store: JobStore, redis: Redis) -> None:
    job, [task] = failed(store)
    redis.call("SET", keys.task_waits(task.id), 1)
    store.retry(job.id)
    assert redis.call("EXISTS", keys.task_waits(task.id)) == 0


def test_retrying_twice_is_refused_and_changes_nothing(store: JobStore) -> None:
    job, _ = failed(store)
    store.retry(job.id)
    queued = store.job(job.id)
    with pytest.raises(JobUnfinished, match="queued"):
        store.retry(job.id)
    assert store.job(job.id) == queued


def test_a_job_that_is_being_canceled_cannot_be_retried_yet(store: JobStore) -> None:
    job, [task] = submitted(store)
    claimed(store, task)
    store.cancel(job.id)
    with pytest.raises(JobUnfinished, match="running"):
        store.retry(job.id)


def test_a_job_that_succeeded_is_not_retried(store: JobStore) -> None:
    job, [task] = submitted(store)
    store.settle(claimed(store, task), "succeeded", Outcome(DIGEST))
    with pytest.raises(JobSucceeded):
        store.retry(job.id)


def test_an_unknown_job_cannot_be_retried(store: JobStore) -> None:
    with pytest.raises(JobUnknown):
        store.retry("job_nobody")


@pytest.mark.parametrize("state", ["queued", "failed"])
def test_a_request_that_is_sent_twice_finds_its_own_work(store: JobStore, redis: Redis, state: JobState) -> None:
    """The connection broke before the answer came; a worker may have been fast meanwhile."""
    job, [task] = failed(store)
    retry = redis.script(request_scripts.RETRY)
    assert retry(args=[job.id, "one"]) == [1, "failed", task.id, 2]
    if state == "failed":
        claim = store.claim(task.id, 2)
        assert claim is not None
        store.settle(claim, "failed", Outcome(error=LOST))
    again = [] if state == "failed" else [task.id, 2]
    assert retry(args=[job.id, "one"]) == [1, state, *again]
    assert (store.job(job.id).state, store.job(job.id).attempt) == (state, 2)
