"""Jobs of many tasks: what stands in the queue, and what each script touches."""

from __future__ import annotations

import sys

import pytest

from mirror.errors import JobUnfinished, JobUnknown, RedisUnavailable
from mirror.queue import NORMAL
from mirror.records.claims import Outcome
from mirror.records.job_request import MOST_IMAGES
from mirror.records.jobs import Entry
from mirror.records.spec import CopySpec
from mirror.records.states import STEP, WINDOW, job_script
from mirror.redis import keys
from mirror.redis.client import Redis
from tests.integration.records.submitted import DIGEST, LOST, lose
from tests.support.records import Records
from tests.support.stopped_clock import StoppedClock

BYTES_PER_TASK = 1_500
"""What docs/explanation/architecture.md promises for a task that waits."""


def specs(count: int) -> list[CopySpec]:
    return [CopySpec.parse(f"docker.io/library/app{n}:1", f"docker.io/library/app{n}:1") for n in range(count)]


def submit(records: Records, count: int) -> tuple[str, list[Entry]]:
    job, tasks, entries = records.jobs.submit(specs(count))
    assert len(tasks) == count
    return job.id, entries


def end(records: Records, entries: list[Entry], state: str = "succeeded") -> list[Entry]:
    """Claim and settle tasks as one worker does.

    Return the entries that were released instead.
    """
    claims = [claim for claim in records.claims.claim(entries) if claim]
    assert len(claims) == len(entries)
    error = LOST if state == "failed" else None
    records.released.clear()
    assert all(records.claims.settle(state, [(claim, Outcome(error=error)) for claim in claims]))
    return list(records.released)


def open_tasks(redis: Redis) -> int:
    return sum(int(redis.call("ZCARD", key)) for key in (keys.TASKS_QUEUED, keys.TASKS_RUNNING, keys.TASKS_PARKED))


def test_jobs_of_the_same_millisecond_have_tasks_of_their_own(records: Records, redis: Redis) -> None:
    StoppedClock(redis)
    jobs = [records.jobs.submit(specs(3)) for _ in range(3)]
    assert len({task.id for _, tasks, _ in jobs for task in tasks}) == 9


def test_ten_thousand_images_are_one_job_of_which_a_window_is_released(records: Records, redis: Redis) -> None:
    before = int(redis.call("INFO", "memory")["used_memory"])
    job_id, entries = submit(records, MOST_IMAGES)
    per_task = (int(redis.call("INFO", "memory")["used_memory"]) - before) / MOST_IMAGES
    sys.stdout.write(f"{per_task:.0f} bytes of Redis for each waiting task\n")
    assert per_task < BYTES_PER_TASK
    assert len(entries) == open_tasks(redis) == WINDOW
    job = records.jobs.job(job_id)
    assert (job.state, job.images.total) == ("queued", MOST_IMAGES)
    tasks = records.jobs.tasks(job_id, 300)
    assert [task.spec for task in tasks] == specs(300)
    assert [entry for entry, *_ in entries] == [task.id for task in tasks[:WINDOW]]
    assert {task.state for task in tasks} == {"queued"}
    records.jobs.cancel(job_id)
    assert open_tasks(redis) == 0
    canceled = records.jobs.job(job_id)
    assert (canceled.state, canceled.images.canceled) == ("canceled", MOST_IMAGES)
    assert len(records.jobs.retry(job_id)) == WINDOW
    assert records.jobs.job(job_id).images.canceled == 0
    records.jobs.cancel(job_id)
    records.jobs.delete(job_id)
    assert set(redis.call("KEYS", "mirror:*")) <= {keys.CLOCK, keys.CLOCK_SLOWED}


def test_a_task_that_ends_releases_the_next_one_until_all_have_ended(redis: Redis) -> None:
    records = Records.on(redis, window=3)
    job_id, entries = submit(records, 8)
    tasks = [task.id for task in records.jobs.tasks(job_id, 8)]
    assert [task_id for task_id, *_ in entries] == tasks[:3]
    assert end(records, entries[:1]) == [(tasks[3], 0, NORMAL)]
    assert [task_id for task_id, *_ in end(records, [*entries[1:], (tasks[3], 0, NORMAL)])] == tasks[4:7]
    assert open_tasks(redis) == 3
    assert end(records, [(task_id, 0, NORMAL) for task_id in tasks[4:7]]) == [(tasks[7], 0, NORMAL)]
    assert end(records, [(tasks[7], 0, NORMAL)]) == []
    assert records.jobs.job(job_id).state == "succeeded"
    assert redis.call("EXISTS", keys.job_pending(job_id)) == 0


def test_a_task_that_is_lost_for_good_or_out_of_patience_or_abandoned_releases_the_next(redis: Redis) -> None:
    records = Records.on(redis, window=1)
    job_id, [(first, *_)] = submit(records, 4)
    tasks = [task.id for task in records.jobs.tasks(job_id, 4)]
    assert records.claim(first, 0)
    redis.call("HSET", keys.task(first), "losses", 2)
    lose(redis, first)
    assert records.recovery.expire(first, LOST) == [(tasks[1], 0, NORMAL)]
    parked = records.claim(tasks[1], 0)
    assert parked
    assert records.claims.release(parked, wait=60, fails_with=LOST)
    redis.call("ZADD", keys.TASKS_PARKED, 1, tasks[1])
    assert records.recovery.unpark(tasks[1]) == [(tasks[2], 0, NORMAL)]
    faulty = records.claim(tasks[2], 0)
    assert faulty
    assert records.claims.abandon(faulty)
    assert records.released == [(tasks[3], 0, NORMAL)]


def test_a_job_whose_window_was_not_filled_is_found_by_the_reconciler(redis: Redis) -> None:
    """As when a worker of a release before windows ends a task."""
    records, clock = Records.on(redis, window=2), StoppedClock(redis)
    job_id, entries = submit(records, 5)
    for task_id, *_ in entries:
        redis.call("HSET", keys.task(task_id), "state", "succeeded")
        redis.call("ZREM", keys.TASKS_QUEUED, task_id)
        redis.call("HINCRBY", keys.job(job_id), "succeeded", 1)
    assert records.recovery.unfinished_requests() == []
    clock.advance(60)
    assert records.recovery.unfinished_requests() == [job_id]
    more, released = records.recovery.continue_request(job_id)
    assert (more, len(released)) == (False, 2)
    assert records.recovery.unfinished_requests() == []


def test_a_job_of_one_window_is_not_watched(records: Records, redis: Redis) -> None:
    submit(records, WINDOW)
    assert redis.call("ZCARD", keys.JOBS_WATCHED) == 0


def test_a_request_that_died_after_its_first_step_is_finished_by_the_reconciler(redis: Redis) -> None:
    records, clock = Records.on(redis, window=4), StoppedClock(redis)
    job_id, _ = submit(records, 2 * STEP + 5)
    assert redis.script(job_script("cancel.lua"))(args=[job_id, "died"]) == [1, "queued", 1]
    job = records.jobs.job(job_id)
    assert (job.state, job.images.canceled) == ("queued", STEP)
    assert records.recovery.unfinished_requests() == []
    clock.advance(60)
    assert records.recovery.unfinished_requests() == [job_id]
    assert records.recovery.continue_request(job_id) == (True, [])
    assert records.recovery.continue_request(job_id) == (False, [])
    assert records.jobs.job(job_id).state == "canceled"
    assert records.recovery.unfinished_requests() == []

    granted, _, more, *queued = redis.script(job_script("retry.lua"))(args=[job_id, "died too"])
    assert (granted, more, len(queued)) == (1, 1, 3 * 4)
    assert records.jobs.job(job_id).images.canceled == STEP + 5
    clock.advance(60)
    assert records.recovery.continue_request(job_id) == (True, [])
    assert records.recovery.continue_request(job_id) == (False, [])
    assert (records.jobs.job(job_id).state, records.jobs.job(job_id).images.canceled) == ("queued", 0)


def test_a_task_of_a_job_that_is_being_canceled_cannot_be_claimed_before_its_step(redis: Redis) -> None:
    records = Records.on(redis, window=2 * STEP)
    job_id, _ = submit(records, STEP + 5)
    [*_, last] = records.recovery.continue_request(job_id)[1]
    redis.script(job_script("cancel.lua"))(args=[job_id, "died"])
    assert records.claim(*last[:2]) is None
    assert records.jobs.job(job_id).images.canceled == STEP + 1
    records.recovery.continue_request(job_id)
    assert (records.jobs.job(job_id).state, records.jobs.job(job_id).images.canceled) == ("canceled", STEP + 5)


def test_a_job_does_not_end_before_its_retry_has_restarted_all_tasks(redis: Redis) -> None:
    records = Records.on(redis, window=STEP + 1)
    job_id, entries = submit(records, STEP + 1)
    entries += records.recovery.continue_request(job_id)[1]
    end(records, entries[1:-1])
    end(records, [entries[0], entries[-1]], "failed")
    assert records.jobs.job(job_id).state == "partial"
    _, _, more, *queued = redis.script(job_script("retry.lua"))(args=[job_id, "died"])
    assert (more, queued) == (1, [entries[0][0], 2, NORMAL])
    assert end(records, [(entries[0][0], 2, NORMAL)]) == []
    assert records.jobs.job(job_id).state == "running"
    with pytest.raises(JobUnfinished):
        records.jobs.retry(job_id)
    assert records.recovery.continue_request(job_id) == (False, [(entries[-1][0], 2, NORMAL)])
    end(records, [(entries[-1][0], 2, NORMAL)])
    assert records.jobs.job(job_id).state == "succeeded"


def test_a_retry_can_be_canceled_between_two_steps(redis: Redis) -> None:
    records = Records.on(redis, window=STEP + 1)
    job_id, _ = submit(records, STEP + 1)
    records.jobs.cancel(job_id)
    redis.script(job_script("retry.lua"))(args=[job_id, "died"])
    records.jobs.cancel(job_id)
    job = records.jobs.job(job_id)
    assert (job.state, job.images.canceled, job.images.running) == ("canceled", STEP + 1, 0)
    assert open_tasks(redis) == 0


def test_a_submission_that_died_before_its_end_leaves_nothing(
    records: Records, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = StoppedClock(redis)

    class Died(Exception):
        pass

    def die(**_: object) -> object:
        raise Died

    monkeypatch.setattr(records.jobs, "_submit", die)
    with pytest.raises(Died):
        submit(records, STEP + 1)
    assert records.jobs.page(limit=9, before=None, state=None, source=None) == ([], None)
    source = "docker.io/library/app0:1"
    assert records.jobs.page(limit=9, before=None, state=None, source=source) == ([], None)
    assert redis.call("ZCARD", keys.jobs_by_source(source)) == 1
    assert records.delete_leftovers() is False
    assert len(redis.call("KEYS", "mirror:task:*")) == STEP
    clock.advance(3600)
    while records.delete_leftovers():
        pass
    assert set(redis.call("KEYS", "mirror:*")) <= {keys.CLOCK, keys.CLOCK_SLOWED}


def test_a_submission_that_takes_too_long_is_refused(
    records: Records, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, add_tasks = StoppedClock(redis), records.jobs._add_tasks

    def add_late(args: list[str]) -> object:
        answer = add_tasks(args=args)
        clock.advance(3600)
        records.delete_leftovers()
        return answer

    monkeypatch.setattr(records.jobs, "_add_tasks", add_late)
    with pytest.raises(RedisUnavailable, match="took so long"):
        submit(records, STEP + 1)
    assert records.jobs.page(limit=9, before=None, state=None, source=None) == ([], None)


def test_a_part_of_a_submission_that_is_sent_twice_is_stored_once(
    records: Records, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("_add_tasks", "_submit"):
        script = getattr(records.jobs, name)
        monkeypatch.setattr(records.jobs, name, lambda args, script=script: [script(args=args), script(args=args)][1])
    job_id, entries = submit(records, STEP + 1)
    assert len(entries) == open_tasks(redis) == WINDOW
    assert redis.call("LLEN", keys.job_pending(job_id)) == STEP + 1 - WINDOW


# -- removal


def test_only_a_job_that_has_ended_is_deleted(records: Records, redis: Redis) -> None:
    job_id, [entry] = submit(records, 1)
    with pytest.raises(JobUnfinished):
        records.jobs.delete(job_id)
    assert records.jobs.job(job_id).state == "queued"
    end(records, [entry])
    records.jobs.delete(job_id)
    with pytest.raises(JobUnknown):
        records.jobs.delete(job_id)
    assert set(redis.call("KEYS", "mirror:*")) <= {keys.CLOCK, keys.CLOCK_SLOWED}


def test_a_large_job_whose_retention_is_over_is_removed_in_steps(redis: Redis) -> None:
    records, clock = Records.on(redis, retention=3600), StoppedClock(redis)
    job_id, _ = submit(records, 2 * STEP)
    records.jobs.cancel(job_id)
    assert records.remove_ended() == 0
    clock.advance(3700)
    assert records.remove_ended() == 1
    with pytest.raises(JobUnknown):
        records.jobs.job(job_id)
    assert records.delete_leftovers() is True
    assert len(redis.call("KEYS", "mirror:task:*")) == STEP
    while records.delete_leftovers():
        pass
    assert set(redis.call("KEYS", "mirror:*")) <= {keys.CLOCK, keys.CLOCK_SLOWED}


def test_a_retention_of_zero_keeps_jobs(redis: Redis) -> None:
    records, clock = Records.on(redis, retention=0), StoppedClock(redis)
    job_id, [entry] = submit(records, 1)
    end(records, [entry])
    clock.advance(10 * 365 * 86400)
    assert records.remove_ended() == 0
    assert records.jobs.job(job_id).state == "succeeded"


def test_a_hundred_tasks_are_settled_in_two_round_trips(records: Records, redis: Redis) -> None:
    _, entries = submit(records, 100)
    claims = [claim for claim in records.claims.claim(entries) if claim]
    records.claims.settle("succeeded", [(claims[0], Outcome(DIGEST))])  # the script is loaded now
    before = commands(redis)
    assert all(records.claims.settle("succeeded", [(claim, Outcome(DIGEST)) for claim in claims[1:]]))
    assert commands(redis) - before <= 2


def commands(redis: Redis) -> int:
    """How many scripts were ever run."""
    found = redis.call("INFO", "commandstats")
    return sum(int(found.get(f"cmdstat_{name}", {}).get("calls", 0)) for name in ("evalsha", "eval"))
