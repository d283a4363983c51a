"""Canceling a job, whatever its tasks do at that moment.

Every change is one script, so order is all there is.
"""

from __future__ import annotations

import pytest

from mirror.errors import JobFinished, JobUnknown
from mirror.records.claims import Claim, ClaimState, Outcome
from mirror.records.job import ByteCounts, ImageCounts
from mirror.records.states import JobState, job_script
from mirror.records.task import WaitingFor
from mirror.redis import keys
from mirror.redis.client import Redis
from tests.integration.records.submitted import DIGEST, LOST, claimed, lose, read, submitted
from tests.support.records import Records

WAIT = WaitingFor("rate_limited", "2026-01-01T00:00:00Z", "docker.io")


def watched(redis: Redis) -> dict[str, list[str]]:
    """The sorted sets in which the reconciler watches tasks."""
    sets = {"queued": keys.TASKS_QUEUED, "running": keys.TASKS_RUNNING, "parked": keys.TASKS_PARKED}
    return {name: redis.call("ZRANGE", key, 0, -1) for name, key in sets.items()}


def assert_canceled(records: Records, redis: Redis, job_id: str, *, total: int = 1) -> None:
    job = records.jobs.job(job_id)
    assert (job.state, job.error, job.waiting_for) == ("canceled", None, None)
    assert job.images == ImageCounts(total, canceled=total)
    assert job.finished_at is not None
    assert {task.state for task in records.jobs.tasks(job_id, 20)} == {"canceled"}
    assert watched(redis) == {"queued": [], "running": [], "parked": []}


def test_a_queued_job_is_canceled_at_once_and_its_entries_claim_nothing(records: Records, redis: Redis) -> None:
    job, tasks = submitted(records, 3)
    records.jobs.cancel(job.id)
    assert_canceled(records, redis, job.id, total=3)
    assert [records.claim(task.id, 0) for task in tasks] == [None, None, None]
    assert [found.id for found in records.jobs.page(limit=5, before=None, state="canceled", source=None)[0]] == [job.id]


def test_a_parked_task_is_canceled_at_once_and_not_due_any_more(records: Records, redis: Redis) -> None:
    job, [task] = submitted(records)
    records.claims.release(claimed(records, task), wait=600, waiting_for=WAIT)
    records.jobs.cancel(job.id)
    assert_canceled(records, redis, job.id)
    assert read(records, task).waiting_for is None
    assert records.recovery.unpark(task.id) == []


def test_a_worker_learns_of_it_whenever_it_writes_or_asks(records: Records) -> None:
    job, [task] = submitted(records)
    claim = claimed(records, task)
    assert records.claims.states([claim]) == [ClaimState.HELD]
    records.jobs.cancel(job.id)
    assert records.jobs.job(job.id).state == "running"
    assert records.jobs.job(job.id).cancel_requested_at is not None
    learned = [
        *records.claims.states([claim]),
        records.claims.renew(claim),
        records.claims.progress(claim, [], ByteCounts(5, 5, 0), digest=DIGEST, checkpoints=1),
    ]
    assert learned == [ClaimState.CANCELING] * 3


def test_asking_how_a_claim_stands_writes_nothing(records: Records, redis: Redis) -> None:
    _, [task] = submitted(records)
    claim = claimed(records, task)
    before = redis.call("ZSCORE", keys.TASKS_RUNNING, task.id), redis.call("GET", keys.CLOCK)
    assert records.claims.states([claim]) == [ClaimState.HELD]
    assert (redis.call("ZSCORE", keys.TASKS_RUNNING, task.id), redis.call("GET", keys.CLOCK)) == before


def test_a_claim_that_was_faster_than_the_cancellation_is_told_and_settles(records: Records, redis: Redis) -> None:
    job, [task] = submitted(records)
    claim = claimed(records, task)
    records.jobs.cancel(job.id)
    assert records.settle(claim, "canceled", Outcome())
    assert records.settle(claim, "canceled", Outcome())
    assert_canceled(records, redis, job.id)


def test_what_was_published_all_the_same_is_a_success(records: Records) -> None:
    job, [task] = submitted(records)
    claim = claimed(records, task)
    records.jobs.cancel(job.id)
    assert records.settle(claim, "succeeded", Outcome(DIGEST))
    ended = records.jobs.job(job.id)
    assert (ended.state, ended.digest) == ("succeeded", DIGEST)
    with pytest.raises(JobFinished):
        records.jobs.cancel(job.id)


def test_a_failure_after_the_request_is_a_cancellation(records: Records, redis: Redis) -> None:
    job, [task] = submitted(records)
    claim = claimed(records, task)
    records.jobs.cancel(job.id)
    assert records.settle(claim, "failed", Outcome(error=LOST))
    assert records.settle(claim, "failed", Outcome(error=LOST))
    assert_canceled(records, redis, job.id)
    assert read(records, task).error is None


@pytest.mark.parametrize("state", ["succeeded", "failed"])
def test_what_has_ended_cannot_be_canceled(records: Records, state: JobState) -> None:
    job, [task] = submitted(records)
    records.settle(claimed(records, task), state, Outcome(error=LOST if state == "failed" else None))
    with pytest.raises(JobFinished, match=state):
        records.jobs.cancel(job.id)
    assert records.jobs.job(job.id).state == state
    assert records.jobs.job(job.id).cancel_requested_at is None


def test_an_unknown_job_cannot_be_canceled(records: Records, redis: Redis) -> None:
    with pytest.raises(JobUnknown):
        records.jobs.cancel("job_unknown")
    assert redis.call("EXISTS", keys.job("job_unknown")) == 0


def test_canceling_twice_is_canceling_once(records: Records, redis: Redis) -> None:
    job, [one, _] = submitted(records, 2)
    claim = claimed(records, one)
    records.jobs.cancel(job.id)
    first = records.jobs.job(job.id)
    records.jobs.cancel(job.id)
    assert records.jobs.job(job.id) == first
    records.settle(claim, "canceled", Outcome())
    records.jobs.cancel(job.id)
    assert_canceled(records, redis, job.id, total=2)


@pytest.mark.parametrize("wait", [0, 600])
def test_a_task_that_is_released_after_the_request_ends(records: Records, redis: Redis, wait: float) -> None:
    """The worker gets SIGTERM, or the registry asks it to wait.

    It does not know of the cancellation yet.
    """
    job, [task] = submitted(records)
    claim = claimed(records, task)
    records.jobs.cancel(job.id)
    assert not records.claims.release(claim, wait=wait, waiting_for=WAIT if wait else None)
    assert not records.claims.release(claim, wait=wait, waiting_for=WAIT if wait else None)
    assert_canceled(records, redis, job.id)


def test_the_task_of_a_lost_worker_ends_instead_of_being_queued_again(records: Records, redis: Redis) -> None:
    job, [task] = submitted(records)
    late = claimed(records, task)
    records.jobs.cancel(job.id)
    lose(redis, task.id)
    assert records.recovery.expired() == [task.id]
    assert records.recovery.expire(task.id, LOST) == []
    assert records.recovery.expire(task.id, LOST) == []
    assert_canceled(records, redis, job.id)
    assert records.claims.states([late]) == [ClaimState.TAKEN_AWAY]
    assert not records.settle(late, "succeeded", Outcome(DIGEST))
    assert_canceled(records, redis, job.id)


def test_a_worker_that_gave_its_task_back_before_can_no_longer_settle_it(records: Records, redis: Redis) -> None:
    job, [task] = submitted(records)
    claim = claimed(records, task)
    assert records.claims.release(claim)
    records.jobs.cancel(job.id)
    assert not records.claims.release(claim)
    assert not records.settle(claim, "succeeded", Outcome(DIGEST))
    assert_canceled(records, redis, job.id)


OUTCOMES: dict[tuple[str, ...], JobState] = {
    ("succeeded", "canceled"): "canceled",
    ("failed", "canceled"): "failed",
    ("succeeded", "failed", "canceled"): "partial",
    ("canceled", "canceled"): "canceled",
}


@pytest.mark.parametrize("states", OUTCOMES)
def test_failures_show_in_the_state_of_a_canceled_job(records: Records, states: tuple[str, ...]) -> None:
    job, tasks = submitted(records, len(states))
    for task, state in zip(tasks, states, strict=True):
        if state != "canceled":
            records.settle(claimed(records, task), state, Outcome(error=LOST if state == "failed" else None))
    records.jobs.cancel(job.id)
    ended = records.jobs.job(job.id)
    assert (ended.state, ended.images.canceled) == (OUTCOMES[states], states.count("canceled"))
    assert ended.finished_at is not None


def test_a_job_goes_on_running_until_its_last_worker_has_stopped(records: Records) -> None:
    job, [one, two, _] = submitted(records, 3)
    first, second = claimed(records, one), claimed(records, two)
    records.jobs.cancel(job.id)
    assert records.jobs.job(job.id).images == ImageCounts(3, canceled=1, running=2)
    records.settle(first, "canceled", Outcome())
    assert records.jobs.job(job.id).state == "running"
    records.settle(second, "canceled", Outcome())
    assert records.jobs.job(job.id).state == "canceled"


def test_a_request_that_is_sent_twice_finds_its_own_work(records: Records, redis: Redis) -> None:
    """The connection broke before the answer arrived. Then the job ended by itself."""
    job, [task] = submitted(records)
    claim = claimed(records, task)
    cancel = redis.script(job_script("cancel.lua"))
    assert cancel(args=[job.id, "one"]) == [1, "running", 0]
    records.settle(claim, "succeeded", Outcome(DIGEST))
    assert cancel(args=[job.id, "one"]) == [1, "succeeded", 0]
    assert cancel(args=[job.id, "two"]) == [0, "succeeded", 0]


def test_a_void_claim_is_taken_away_whatever_became_of_the_task(records: Records, redis: Redis) -> None:
    job, [task] = submitted(records)
    claim = claimed(records, task)
    stranger = Claim(claim.task, claim.fence, "another token")
    records.jobs.cancel(job.id)
    assert records.claims.states([stranger]) == [ClaimState.TAKEN_AWAY]
    assert redis.script(job_script("claim_state.lua"))(args=["task_unknown", 1, "x"]) == ClaimState.TAKEN_AWAY
