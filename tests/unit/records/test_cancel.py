"""Canceling a job, whatever its tasks do at that moment. Every change is one script, so order is all there is."""

from __future__ import annotations

import pytest

from mirror.errors import JobFinished, JobUnknown
from mirror.records import request_scripts, transitions
from mirror.records.job import ByteCounts, ImageCounts, JobState
from mirror.records.store import Claim, ClaimState, JobStore, Outcome
from mirror.records.task import WaitingFor
from mirror.redis import keys
from mirror.redis.client import Redis
from tests.unit.records.submitted import DIGEST, LOST, claimed, lose, read, submitted

WAIT = WaitingFor("rate_limited", "2026-01-01T00:00:00Z", "docker.io")


def watched(redis: Redis) -> dict[str, list[str]]:
    """The sorted sets in which the reconciler watches tasks."""
    sets = {"queued": keys.TASKS_QUEUED, "running": keys.TASKS_RUNNING, "parked": keys.TASKS_PARKED}
    return {name: redis.call("ZRANGE", key, 0, -1) for name, key in sets.items()}


def assert_canceled(store: JobStore, redis: Redis, job_id: str, *, total: int = 1) -> None:
    job = store.job(job_id)
    assert (job.state, job.error, job.waiting_for) == ("canceled", None, None)
    assert job.images == ImageCounts(total, canceled=total)
    assert job.finished_at is not None
    assert {task.state for task in store.tasks(job_id, 20)} == {"canceled"}
    assert watched(redis) == {"queued": [], "running": [], "parked": []}


def test_a_queued_job_is_canceled_at_once_and_its_entries_claim_nothing(store: JobStore, redis: Redis) -> None:
    job, tasks = submitted(store, 3)
    store.cancel(job.id)
    assert_canceled(store, redis, job.id, total=3)
    assert [store.claim(task.id, 0) for task in tasks] == [None, None, None]
    assert [found.id for found in store.page(limit=5, before=None, state="canceled", source=None)[0]] == [job.id]


def test_a_parked_task_is_canceled_at_once_and_not_due_any_more(store: JobStore, redis: Redis) -> None:
    job, [task] = submitted(store)
    store.release(claimed(store, task), wait=600, waiting_for=WAIT)
    store.cancel(job.id)
    assert_canceled(store, redis, job.id)
    assert read(store, task).waiting_for is None
    assert store.unpark(task.id) is None


def test_a_worker_learns_of_it_whenever_it_writes_or_asks(store: JobStore) -> None:
    job, [task] = submitted(store)
    claim = claimed(store, task)
    assert store.standings([claim]) == [ClaimState.HELD]
    store.cancel(job.id)
    assert store.job(job.id).state == "running"
    assert store.job(job.id).cancel_requested_at is not None
    learned = [
        *store.standings([claim]),
        store.renew(claim),
        store.progress(claim, [], ByteCounts(5, 5, 0), digest=DIGEST, checkpoints=1),
    ]
    assert learned == [ClaimState.CANCELING] * 3


def test_asking_how_a_claim_stands_writes_nothing(store: JobStore, redis: Redis) -> None:
    _, [task] = submitted(store)
    claim = claimed(store, task)
    before = redis.call("ZSCORE", keys.TASKS_RUNNING, task.id), redis.call("GET", keys.CLOCK)
    assert store.standings([claim]) == [ClaimState.HELD]
    assert (redis.call("ZSCORE", keys.TASKS_RUNNING, task.id), redis.call("GET", keys.CLOCK)) == before


def test_a_claim_that_was_faster_than_the_cancellation_is_told_and_settles(store: JobStore, redis: Redis) -> None:
    job, [task] = submitted(store)
    claim = claimed(store, task)
    store.cancel(job.id)
    assert store.settle(claim, "canceled", Outcome())
    assert store.settle(claim, "canceled", Outcome())
    assert_canceled(store, redis, job.id)


def test_what_was_published_all_the_same_is_a_success(store: JobStore) -> None:
    job, [task] = submitted(store)
    claim = claimed(store, task)
    store.cancel(job.id)
    assert store.settle(claim, "succeeded", Outcome(DIGEST))
    ended = store.job(job.id)
    assert (ended.state, ended.digest) == ("succeeded", DIGEST)
    with pytest.raises(JobFinished):
        store.cancel(job.id)


def test_a_failure_behind_the_request_is_a_cancellation(store: JobStore, redis: Redis) -> None:
    job, [task] = submitted(store)
    claim = claimed(store, task)
    store.cancel(job.id)
    assert store.settle(claim, "failed", Outcome(error=LOST))
    assert store.settle(claim, "failed", Outcome(error=LOST))
    assert_canceled(store, redis, job.id)
    assert read(store, task).error is None


@pytest.mark.parametrize("state", ["succeeded", "failed"])
def test_what_has_ended_cannot_be_canceled(store: JobStore, state: JobState) -> None:
    job, [task] = submitted(store)
    store.settle(claimed(store, task), state, Outcome(error=LOST if state == "failed" else None))
    with pytest.raises(JobFinished, match=state):
        store.cancel(job.id)
    assert store.job(job.id).state == state
    assert store.job(job.id).cancel_requested_at is None


def test_an_unknown_job_cannot_be_canceled(store: JobStore, redis: Redis) -> None:
    with pytest.raises(JobUnknown):
        store.cancel("job_nobody")
    assert redis.call("EXISTS", keys.job("job_nobody")) == 0


def test_canceling_twice_is_canceling_once(store: JobStore, redis: Redis) -> None:
    job, [one, _] = submitted(store, 2)
    claim = claimed(store, one)
    store.cancel(job.id)
    first = store.job(job.id)
    store.cancel(job.id)
    assert store.job(job.id) == first
    store.settle(claim, "canceled", Outcome())
    store.cancel(job.id)
    assert_canceled(store, redis, job.id, total=2)


@pytest.mark.parametrize("wait", [0, 600])
def test_a_task_that_is_given_back_meanwhile_ends_instead(store: JobStore, redis: Redis, wait: float) -> None:
    """The worker is told to stop by SIGTERM, or the registry says to wait, and it has not heard of the cancellation."""
    job, [task] = submitted(store)
    claim = claimed(store, task)
    store.cancel(job.id)
    assert not store.release(claim, wait=wait, waiting_for=WAIT if wait else None)
    assert not store.release(claim, wait=wait, waiting_for=WAIT if wait else None)
    assert_canceled(store, redis, job.id)


def test_the_task_of_a_lost_worker_ends_instead_of_being_queued_again(store: JobStore, redis: Redis) -> None:
    job, [task] = submitted(store)
    late = claimed(store, task)
    store.cancel(job.id)
    lose(redis, task.id)
    assert store.expired() == [task.id]
    assert store.expire(task.id, LOST) is None
    assert store.expire(task.id, LOST) is None
    assert_canceled(store, redis, job.id)
    assert store.standings([late]) == [ClaimState.TAKEN_AWAY]
    assert not store.settle(late, "succeeded", Outcome(DIGEST))
    assert_canceled(store, redis, job.id)


def test_a_worker_that_gave_its_task_back_before_can_no_longer_settle_it(store: JobStore, redis: Redis) -> None:
    job, [task] = submitted(store)
    claim = claimed(store, task)
    assert store.release(claim)
    store.cancel(job.id)
    assert not store.release(claim)
    assert not store.settle(claim, "succeeded", Outcome(DIGEST))
    assert_canceled(store, redis, job.id)


OUTCOMES: dict[tuple[str, ...], JobState] = {
    ("succeeded", "canceled"): "canceled",
    ("failed", "canceled"): "failed",
    ("succeeded", "failed", "canceled"): "partial",
    ("canceled", "canceled"): "canceled",
}


@pytest.mark.parametrize("states", OUTCOMES)
def test_failures_show_in_the_state_of_a_canceled_job(store: JobStore, states: tuple[str, ...]) -> None:
    job, tasks = submitted(store, len(states))
    for task, state in zip(tasks, states, strict=True):
        if state != "canceled":
            store.settle(claimed(store, task), state, Outcome(error=LOST if state == "failed" else None))
    store.cancel(job.id)
    ended = store.job(job.id)
    assert (ended.state, ended.images.canceled) == (OUTCOMES[states], states.count("canceled"))
    assert ended.finished_at is not None


def test_a_job_goes_on_running_until_its_last_worker_has_stopped(store: JobStore) -> None:
    job, [one, two, _] = submitted(store, 3)
    first, second = claimed(store, one), claimed(store, two)
    store.cancel(job.id)
    assert store.job(job.id).images == ImageCounts(3, canceled=1, running=2)
    store.settle(first, "canceled", Outcome())
    assert store.job(job.id).state == "running"
    store.settle(second, "canceled", Outcome())
    assert store.job(job.id).state == "canceled"


def test_a_request_that_is_sent_twice_finds_its_own_work(store: JobStore, redis: Redis) -> None:
    """The connection broke before the answer came; the job has ended by itself meanwhile."""
    job, [task] = submitted(store)
    claim = claimed(store, task)
    cancel = redis.script(request_scripts.CANCEL)
    assert cancel(args=[job.id, "one"]) == [1, "running"]
    store.settle(claim, "succeeded", Outcome(DIGEST))
    assert cancel(args=[job.id, "one"]) == [1, "succeeded"]
    assert cancel(args=[job.id, "two"]) == [0, "succeeded"]


def test_a_void_claim_is_taken_away_whatever_became_of_the_task(store: JobStore, redis: Redis) -> None:
    job, [task] = submitted(store)
    claim = claimed(store, task)
    stranger = Claim(claim.task, claim.fence, "another token")
    store.cancel(job.id)
    assert store.standings([stranger]) == [ClaimState.TAKEN_AWAY]
    assert redis.script(transitions.STANDING)(args=["task_nobody", 1, "x"]) == ClaimState.TAKEN_AWAY
