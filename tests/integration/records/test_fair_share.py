"""Which lane the queue entry of a task is in, whatever happens to the task."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mirror.queue import LANES
from mirror.records.claims import Claim, Outcome
from mirror.records.job import PRIORITIES, JobOptions, Priority
from mirror.records.jobs import Entry
from mirror.records.spec import CopySpec
from mirror.records.states import FAIR_SHARE, WINDOW
from mirror.redis import keys
from mirror.redis.client import Redis
from tests.integration.records.submitted import DIGEST, LOST, lose
from tests.support.records import Records
from tests.support.stopped_clock import StoppedClock

EVENTS = ("claim", "end", "fail", "park", "unpark", "back", "lose")


def submit(records: Records, count: int, priority: Priority = "normal") -> tuple[str, list[Entry]]:
    specs = [CopySpec.parse(f"docker.io/library/app{n}:1", f"app{n}:1") for n in range(count)]
    job, _, entries = records.jobs.submit(specs, JobOptions(priority=priority))
    return job.id, entries


def claim(records: Records, entry: Entry) -> Claim:
    [claimed] = records.claims.claim([entry])
    assert claimed is not None
    return claimed


def end(records: Records, entry: Entry, state: str = "succeeded") -> list[Entry]:
    """Claim and settle the task. Return the entries that its end released."""
    records.released.clear()
    outcome = Outcome(error=LOST) if state == "failed" else Outcome(DIGEST)
    assert records.settle(claim(records, entry), state, outcome)
    return list(records.released)


def park(records: Records, redis: Redis, entry: Entry) -> list[Entry]:
    """Claim the task and park it, so that it is due. Return the entries that this released."""
    records.released.clear()
    assert records.claims.release(claim(records, entry), wait=60)
    redis.call("ZADD", keys.TASKS_PARKED, 1, entry[0])
    return list(records.released)


def lanes(entries: list[Entry]) -> list[str]:
    return [lane for *_, lane in entries]


def share(redis: Redis, job_id: str) -> set[str]:
    return set(redis.call("SMEMBERS", keys.job_share(job_id)))


def test_every_priority_has_a_short_lane_and_one_for_its_bulk() -> None:
    assert set(LANES) == {lane for priority in PRIORITIES for lane in (priority, f"{priority}-bulk")}


@pytest.mark.parametrize("priority", PRIORITIES)
def test_the_first_tasks_of_a_job_are_in_the_short_lane_and_all_others_in_the_bulk(
    records: Records, priority: Priority
) -> None:
    _, entries = submit(records, WINDOW + 10, priority)
    assert lanes(entries) == [priority] * FAIR_SHARE + [f"{priority}-bulk"] * (WINDOW - FAIR_SHARE)
    assert lanes(submit(records, FAIR_SHARE, priority)[1]) == [priority] * FAIR_SHARE


def test_when_a_task_of_the_share_ends_the_next_one_gets_its_place(records: Records, redis: Redis) -> None:
    job_id, entries = submit(records, WINDOW + 4)
    assert lanes(end(records, entries[0])) == ["normal"]
    assert lanes(end(records, entries[FAIR_SHARE])) == ["normal-bulk"]
    assert lanes(end(records, entries[1], "failed")) == ["normal"]
    assert len(share(redis, job_id)) == FAIR_SHARE


def test_a_task_that_waits_in_the_bulk_moves_up_when_nothing_is_pending(records: Records, redis: Redis) -> None:
    job_id, entries = submit(records, FAIR_SHARE + 4)
    claim(records, entries[FAIR_SHARE])
    assert end(records, entries[0]) == [(*entries[FAIR_SHARE + 1][:2], "normal")]
    assert end(records, entries[FAIR_SHARE + 2]) == []
    assert end(records, entries[1], "failed") == [(*entries[FAIR_SHARE + 3][:2], "normal")]
    assert end(records, entries[2]) == []
    assert len(share(redis, job_id)) == FAIR_SHARE - 1


def test_a_task_that_is_handed_over_or_lost_or_restored_keeps_its_lane(records: Records, redis: Redis) -> None:
    _, entries = submit(records, WINDOW)
    for task_id, fence, lane in (entries[0], entries[-1]):
        records.released.clear()
        assert records.claims.release(claim(records, (task_id, fence, lane)))
        assert records.released == [(task_id, 1, lane)]
        assert records.queued.entry(task_id) == [(task_id, 1, lane)]
        claim(records, (task_id, 1, lane))
        assert records.queued.entry(task_id) == []
        lose(redis, task_id)
        assert records.recovery.expire(task_id, LOST) == [(task_id, 2, lane)]


def test_tasks_are_handed_over_together(records: Records) -> None:
    _, entries = submit(records, FAIR_SHARE + 2)
    claims = [claim(records, entry) for entry in entries]
    assert records.settle(claims[-1], "succeeded", Outcome(DIGEST))
    records.released.clear()
    assert records.claims.hand_over(claims) == claims[:-1]
    assert records.released == [(task_id, 1, lane) for task_id, _, lane in entries[:-1]]


def test_a_parked_task_leaves_its_place_to_another_and_gets_a_new_one_later(records: Records, redis: Redis) -> None:
    records = Records.on(redis, window=FAIR_SHARE + 1)
    job_id, entries = submit(records, FAIR_SHARE + 4)
    first, second, last = entries[0], entries[1], entries[-1]
    assert last[2] == "normal-bulk"
    assert park(records, redis, first) == [(last[0], 0, "normal")]
    assert park(records, redis, second) == []
    assert len(share(redis, job_id)) == FAIR_SHARE - 1
    assert records.recovery.unpark(first[0]) == [(first[0], 1, "normal")]
    assert records.recovery.unpark(second[0]) == [(second[0], 1, "normal-bulk")]


def test_a_retry_gives_the_share_anew(records: Records, redis: Redis) -> None:
    job_id, _ = submit(records, FAIR_SHARE + 2, "low")
    records.jobs.cancel(job_id)
    assert share(redis, job_id) == set()
    assert lanes(records.jobs.retry(job_id)) == ["low"] * FAIR_SHARE + ["low-bulk"] * 2


def test_places_that_an_earlier_release_has_left_taken_are_found(redis: Redis) -> None:
    """Its scripts end a task and know nothing of shares."""
    records, clock = Records.on(redis, window=FAIR_SHARE), StoppedClock(redis)
    job_id, entries = submit(records, FAIR_SHARE + 9)
    for task_id, *_ in entries[:3]:
        redis.call("HSET", keys.task(task_id), "state", "succeeded")
        redis.call("ZREM", keys.TASKS_QUEUED, task_id)
        redis.call("HINCRBY", keys.job(job_id), "succeeded", 1)
    clock.advance(60)
    assert records.recovery.unfinished_requests() == [job_id]
    assert lanes(records.recovery.continue_request(job_id)[1]) == ["normal"] * 3


def test_a_job_of_an_earlier_release_has_the_usual_priority(records: Records, redis: Redis) -> None:
    job_id, [(task_id, *_)] = submit(records, 1, "low")
    redis.call("HDEL", keys.job(job_id), "priority")
    assert records.queued.entry(task_id) == [(task_id, 0, "normal")]


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.integers(1, 40),
    st.lists(st.tuples(st.sampled_from(EVENTS), st.integers(0, 40))),
)
def test_the_share_is_full_or_nothing_is_queued_in_the_bulk(
    redis: Redis, count: int, events: list[tuple[str, int]]
) -> None:
    """Whatever happens to the tasks, and in which order."""
    redis.call("FLUSHALL")
    job = RandomJob(redis, count)
    for event, number in events:
        job.apply(event, number)
        in_share, queued = share(redis, job.id), set(redis.call("ZRANGE", keys.TASKS_QUEUED, 0, -1))
        assert in_share <= queued | job.claims.keys()
        assert len(in_share) == FAIR_SHARE or (len(in_share) < FAIR_SHARE and queued <= in_share)
        assert {task_id for task_id in queued if job.lanes[task_id] == "normal"} == in_share & queued


class RandomJob:
    """A job to whose tasks anything happens. It knows the lane in which each task got its last entry."""

    def __init__(self, redis: Redis, count: int) -> None:
        self._redis = redis
        self._records = Records.on(redis, window=2 * FAIR_SHARE)
        self.id, entries = submit(self._records, count)
        self.claims: dict[str, Claim] = {}
        self.lanes: dict[str, str] = {}
        self._note(entries)

    def _note(self, entries: list[Entry]) -> None:
        self.lanes |= {task_id: lane for task_id, _, lane in entries}

    def apply(self, event: str, number: int) -> None:
        """Let the event happen to one of the tasks to which it can happen, if any."""
        places = {"claim": keys.TASKS_QUEUED, "unpark": keys.TASKS_PARKED}
        found = sorted(self._redis.call("ZRANGE", places.get(event, keys.TASKS_RUNNING), 0, -1))
        if not found:
            return
        task_id = found[number % len(found)]
        if event == "claim":
            [entry] = self._records.queued.entry(task_id)
            self.claims[task_id] = claim(self._records, entry)
        elif event == "unpark":
            self._redis.call("ZADD", keys.TASKS_PARKED, 1, task_id)
            self._note(self._records.recovery.unpark(task_id))
        elif event == "lose":
            self._redis.call("ZADD", keys.TASKS_RUNNING, 1, task_id)
            del self.claims[task_id]
            self._note(self._records.recovery.expire(task_id, LOST))
        else:
            self._settle(event, self.claims.pop(task_id))

    def _settle(self, event: str, claim: Claim) -> None:
        self._records.released.clear()
        if event in ("end", "fail"):
            outcome = Outcome(DIGEST) if event == "end" else Outcome(error=LOST)
            assert self._records.settle(claim, "succeeded" if event == "end" else "failed", outcome)
        elif event == "back":
            assert self._records.claims.hand_over([claim]) == [claim]
        else:
            assert self._records.claims.release(claim, wait=600)
        self._note(self._records.released)
