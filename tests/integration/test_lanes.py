"""The lanes of the queue: what is taken next, and what is found where."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import chain

import pytest
import redis as redis_py
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rq import Queue
from rq.job import JobStatus

from mirror.queue import LANES, NORMAL, Entry, TaskQueue, entry_id
from mirror.redis import keys
from mirror.redis.client import open_client

ANY_LANE = st.sampled_from(list(LANES))
STRIDE = {lane: max(LANES.values()) // weight for lane, weight in LANES.items()}


@pytest.fixture
def queue(redis_url: str) -> Iterator[TaskQueue]:
    connection = open_client(redis_url, retries=0, decode_responses=False)
    yield TaskQueue(connection)
    connection.close()


def entries(lane: str, count: int) -> list[Entry]:
    return [(f"{lane}{number}", 0, lane) for number in range(count)]


def lanes(found: list[Entry]) -> str:
    """The lanes of entries, each by the letter it is known by here."""
    letters = {
        "high": "H",
        "normal": "N",
        "high-bulk": "h",
        "normal-bulk": "n",
        "low": "L",
        "low-bulk": "l",
    }
    return "".join(letters[lane] for *_, lane in found)


def longest_wait(lane: str) -> int:
    """How many entries of other lanes may be taken between two of *lane*, whatever those hold."""
    return sum(STRIDE[lane] // STRIDE[other] + 1 for other in LANES if other != lane)


def test_lanes_take_turns_by_their_weights(queue: TaskQueue) -> None:
    for lane in LANES:
        queue.enqueue(entries(lane, 100))
    taken = queue.take(sum(LANES.values()) * 4)
    assert Counter(lane for *_, lane in taken) == {lane: 4 * weight for lane, weight in LANES.items()}
    assert lanes(taken[:20]) == "HNhnLlHHNHHNhHHNHHNh"


def test_two_lanes_share_as_their_weights_say_however_few_are_taken_at_once(queue: TaskQueue) -> None:
    queue.enqueue([*entries("normal", 40), *entries("normal-bulk", 40)])
    assert lanes([queue.take(1)[0] for _ in range(12)]) == "NnNNNNnNNNNn"


def test_an_entry_in_a_lane_that_was_empty_is_the_next_one(queue: TaskQueue) -> None:
    queue.enqueue(entries("normal-bulk", 50))
    queue.take(20)
    for lane in ("low", "normal", "high"):
        queue.enqueue([(lane, 0, lane)])
        assert queue.take(1) == [(lane, 0, lane)]


def test_a_lane_that_was_empty_for_long_has_saved_nothing(queue: TaskQueue) -> None:
    queue.enqueue(entries("normal-bulk", 100))
    queue.take(60)
    queue.enqueue(entries("high-bulk", 30))
    assert lanes(queue.take(9)) == "hhhnhhnhh"


def test_what_is_alone_is_taken_in_its_order(queue: TaskQueue) -> None:
    added = entries("low-bulk", 30)
    queue.enqueue(added)
    assert [*queue.take(7), *queue.take(50)] == added
    assert queue.take(1) == []
    assert queue.connection.keys(f"{keys.RQ_PREFIX}:job:*") == []


def test_an_entry_that_has_moved_to_another_lane_is_taken_once(queue: TaskQueue) -> None:
    bulk = entries("normal-bulk", 4)
    queue.enqueue(bulk)
    moved = [(task_id, fence, NORMAL) for task_id, fence, _ in bulk[:3]]
    queue.enqueue(moved)
    assert queue.take_these(moved[1:2]) == moved[1:2]
    assert queue.take_these(bulk[1:2]) == []
    assert queue.take(9) == [moved[0], bulk[2], bulk[3]]
    assert queue.take(9) == queue.page(0, 9) == []


def test_an_entry_that_rq_has_taken_from_another_lane_is_passed_over(queue: TaskQueue) -> None:
    """The work horse that RQ forked for it has a record until it ends."""
    bulk = entries("normal-bulk", 2)
    queue.enqueue([*bulk, (*bulk[0][:2], NORMAL)])
    found = Queue.dequeue_any(list(queue.lanes.values()), None, connection=queue.connection, serializer="json")
    assert found is not None
    found[0].prepare_for_execution("worker", queue.connection.pipeline())
    found[0].set_status(JobStatus.STARTED)
    assert not queue.holds(*bulk[0][:2])
    assert queue.take_these(bulk[:1]) == []
    assert queue.take(2) == bulk[1:]
    assert queue.connection.exists(found[0].key)


def test_an_entry_with_a_lane_of_another_release_is_in_the_normal_one(queue: TaskQueue) -> None:
    queue.enqueue([("task_1", 3, "urgent"), ("task_2", 0, "high")])
    assert queue.take(2) == [("task_2", 0, "high"), ("task_1", 3, NORMAL)]


def test_entries_that_an_earlier_release_has_added_are_taken(queue: TaskQueue) -> None:
    """It has one queue, whose name is that of the normal lane."""
    earlier = Queue("tasks", connection=queue.connection, serializer="json")
    earlier.enqueue("worker.tasks.mirror_image", "task_1", 4, job_id="task_1-4")
    assert queue.holds("task_1", 4)
    assert queue.page(0, 9) == queue.take(9) == [("task_1", 4, NORMAL)]


def test_a_worker_of_an_earlier_release_takes_what_is_in_the_normal_lane(queue: TaskQueue) -> None:
    queue.enqueue(entries(NORMAL, 1))
    earlier = Queue("tasks", connection=queue.connection, serializer="json")
    found = Queue.dequeue_any([earlier], None, connection=queue.connection, serializer="json")
    assert found is not None
    assert (found[0].func_name, list(found[0].args)) == ("worker.tasks.mirror_image", [f"{NORMAL}0", 0])


def test_rq_takes_an_entry_of_every_lane_and_the_most_urgent_first(queue: TaskQueue) -> None:
    for lane in reversed(list(LANES)):
        queue.enqueue(entries(lane, 1))
    listening = list(queue.lanes.values())
    found = [
        Queue.dequeue_any(listening, None, connection=queue.connection, serializer="json") for _ in range(len(LANES))
    ]
    assert [job.args[0] for job, _ in filter(None, found)] == [f"{lane}0" for lane in LANES]


def test_an_entry_is_held_in_whichever_lane_it_is(queue: TaskQueue) -> None:
    for lane in LANES:
        [entry] = entries(lane, 1)
        queue.enqueue([entry])
        assert queue.holds(*entry[:2])
        assert not queue.holds(entry[0], 1)
    queue.connection.delete(f"{keys.RQ_PREFIX}:job:{entry_id('low0', 0)}")
    assert not queue.holds("low0", 0)


def test_pages_show_lane_after_lane_and_every_entry_once(queue: TaskQueue) -> None:
    for lane in LANES:
        queue.enqueue(entries(lane, 5))
    found = [queue.page(start, 4) for start in range(0, 32, 4)]
    assert [len(page) for page in found] == [4] * 7 + [2]
    assert list(chain.from_iterable(found)) == [entry for lane in LANES for entry in entries(lane, 5)]
    assert queue.page(30, 4) == []


def test_entries_are_taken_from_the_lane_they_are_in(queue: TaskQueue) -> None:
    queue.enqueue([*entries("high", 2), *entries("low-bulk", 2)])
    wanted: list[Entry] = [("low-bulk1", 0, "low-bulk"), ("high0", 0, "high"), ("high0", 0, "high"), ("gone", 0, "low")]
    assert queue.take_these(wanted) == wanted[:2]
    assert queue.page(0, 9) == [("high1", 0, "high"), ("low-bulk0", 0, "low-bulk")]


def test_all_lanes_of_an_enqueue_are_added_in_two_round_trips(
    queue: TaskQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many as one lane takes: the first entries, and then the others."""
    sent = 0
    execute = redis_py.client.Pipeline.execute

    def counted(self: redis_py.client.Pipeline, raise_on_error: bool = True) -> list[object]:
        nonlocal sent
        sent += 1
        return execute(self, raise_on_error)

    monkeypatch.setattr(redis_py.client.Pipeline, "execute", counted)
    queue.enqueue([entry for number in range(9) for lane in LANES for entry in entries(lane, 9)[number : number + 1]])
    assert sent == 2
    assert len(queue.page(0, 100)) == 9 * len(LANES)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.one_of(st.lists(ANY_LANE, max_size=12), st.integers(1, 20)), max_size=25))
def test_nothing_is_lost_or_passed_over_and_no_lane_starves(queue: TaskQueue, steps: list[list[str] | int]) -> None:
    """Whatever is added to which lane, and however many are taken at once."""
    queue.connection.flushall()
    waiting: dict[str, list[Entry]] = {lane: [] for lane in LANES}
    waits = dict.fromkeys(LANES, 0)
    added = 0
    for step in steps:
        if isinstance(step, list):
            new = [(f"task{added + number}", 0, lane) for number, lane in enumerate(step)]
            queue.enqueue(new)
            added += len(new)
            for entry in new:
                waiting[entry[2]].append(entry)
            continue
        taken = queue.take(step)
        assert len(taken) == min(step, sum(map(len, waiting.values())))
        for entry in taken:
            assert waiting[entry[2]].pop(0) == entry
            waits = {lane: waits[lane] + 1 if waiting[lane] and lane != entry[2] else 0 for lane in LANES}
            assert all(wait <= longest_wait(lane) for lane, wait in waits.items())
