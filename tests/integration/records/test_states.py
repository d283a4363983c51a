"""One suite for the table of states and for the scripts, which must agree."""

from __future__ import annotations

import random
from contextlib import suppress
from functools import partial
from typing import Protocol, get_args

import pytest

from mirror.errors import Conflict
from mirror.records.claims import Claim, Outcome
from mirror.records.job import ON_ERRORS, JobOptions, OnError
from mirror.records.spec import CopySpec
from mirror.records.states import (
    RETRYABLE,
    TASK_TRANSITIONS,
    UNFINISHED,
    JobState,
    TaskEvent,
    TaskPlace,
    job_state,
    next_place,
)
from mirror.redis import keys
from mirror.redis.client import Redis
from tests.integration.records.submitted import LOST
from tests.support.records import Records


class Machine(Protocol):
    """A job of some tasks, each known by its number."""

    def apply(self, event: TaskEvent, number: int = 0) -> None:
        """Let the event happen to the task, or to the whole job: cancel, retry.

        One that is refused changes nothing.
        """

    def places(self) -> list[TaskPlace]: ...
    def state(self) -> JobState: ...


class TableMachine:
    """The transitions of the table, in memory."""

    def __init__(self, tasks: int, window: int, on_error: OnError = "continue") -> None:
        self._on_error = on_error
        self._places: list[TaskPlace] = ["pending"] * tasks
        self._pending = list(range(tasks))
        self._losses = [0] * tasks
        self._window = window
        self._canceling = False
        self._fill()

    def places(self) -> list[TaskPlace]:
        return list(self._places)

    def state(self) -> JobState:
        counts = {name: self._places.count(name) for name in ("succeeded", "failed", "canceled", "running")}
        return job_state(total=len(self._places), **counts)

    def apply(self, event: TaskEvent, number: int = 0) -> None:
        if event == "cancel" and self.state() in UNFINISHED:
            self._canceling = True
            self._places = [next_place(place, "cancel") or place for place in self._places]
        elif event == "retry" and self.state() in RETRYABLE:
            self._canceling = False
            self._pending = [n for n, place in enumerate(self._places) if next_place(place, "retry")]
            for restarted in self._pending:
                self._places[restarted], self._losses[restarted] = "pending", 0
        elif event not in ("cancel", "retry", "release into window"):
            self._apply_to_task(event, number)
        self._fill()

    def _apply_to_task(self, event: TaskEvent, number: int) -> None:
        losses = self._losses[number] + 1
        after = next_place(self._places[number], event, canceling=self._canceling, losses=losses)
        if after is not None:
            self._places[number] = after
            self._losses[number] = losses if event == "expire" else self._losses[number] if event == "claim" else 0
        if after == "failed" and self._on_error == "abort" and self.state() in UNFINISHED:
            self._canceling = True
            self._places = [next_place(place, "cancel") or place for place in self._places]

    def _fill(self) -> None:
        while self._pending and self._open() < self._window:
            if next_place("pending", "release into window", canceling=self._canceling) is None:
                break
            self._places[self._pending.pop(0)] = "queued"

    def _open(self) -> int:
        return sum(self._places.count(place) for place in ("queued", "running", "parked"))


class ValkeyMachine:
    """The scripts, in a real Valkey."""

    def __init__(self, redis: Redis, tasks: int, window: int, on_error: OnError = "continue") -> None:
        self._redis = redis
        self._records = Records.on(redis, window=window)
        specs = [CopySpec.parse(f"docker.io/library/app{n}:1", f"app{n}:1") for n in range(tasks)]
        job, found, _ = self._records.jobs.submit(specs, JobOptions(on_error=on_error))
        self._job, self._tasks = job.id, [task.id for task in found]
        self._claims: dict[str, Claim] = {}

    def places(self) -> list[TaskPlace]:
        return [self._place(task_id) for task_id in self._tasks]

    def _place(self, task_id: str) -> TaskPlace:
        task = self._records.jobs.task(task_id)
        assert task is not None
        watched: dict[str, TaskPlace] = {keys.TASKS_QUEUED: "queued", keys.TASKS_PARKED: "parked"}
        found = [place for key, place in watched.items() if self._redis.call("ZSCORE", key, task_id) is not None]
        is_running = self._redis.call("ZSCORE", keys.TASKS_RUNNING, task_id) is not None
        assert (len(found) + is_running) <= (task.state in ("queued", "running"))
        assert is_running == (task.state == "running")
        return task.state if task.state != "queued" else found[0] if found else "pending"

    def state(self) -> JobState:
        return self._records.jobs.job(self._job).state

    def apply(self, event: TaskEvent, number: int = 0) -> None:
        task_id = self._tasks[number]
        with suppress(Conflict):
            if event == "cancel":
                self._records.jobs.cancel(self._job)
            elif event == "retry":
                self._records.jobs.retry(self._job)
            elif event == "claim":
                task = self._records.jobs.task(task_id)
                assert task is not None
                if claim := self._records.claim(task_id, task.fence):
                    self._claims[task_id] = claim
            elif event == "unpark":
                self._redis.call("ZADD", keys.TASKS_PARKED, "XX", 1, task_id)
                self._records.recovery.unpark(task_id)
            elif event == "expire":
                self._redis.call("ZADD", keys.TASKS_RUNNING, "XX", 1, task_id)
                self._records.recovery.expire(task_id, LOST)
            elif task_id in self._claims:
                self._apply_with(self._claims[task_id], event)
        self._reconcile()

    def _reconcile(self) -> None:
        for job_id in self._records.recovery.unfinished_requests():
            self._records.recovery.continue_request(job_id)

    def _apply_with(self, claim: Claim, event: TaskEvent) -> None:
        if event == "succeed":
            self._records.settle(claim, "succeeded", Outcome())
        elif event == "fail":
            self._records.settle(claim, "failed", Outcome(error=LOST))
        elif event in ("hand back", "park"):
            self._records.claims.release(claim, wait=60 if event == "park" else 0)


class MakeMachine(Protocol):
    def __call__(self, tasks: int, window: int, on_error: OnError = "continue") -> Machine: ...


@pytest.fixture(params=["table", "valkey"])
def machine(request: pytest.FixtureRequest) -> MakeMachine:
    if request.param == "table":
        return TableMachine
    redis: Redis = request.getfixturevalue("redis")
    return partial(ValkeyMachine, redis)


WALKS: dict[str, tuple[list[TaskEvent], TaskPlace, JobState]] = {
    "a task that is submitted is queued": ([], "queued", "queued"),
    "a task that is claimed runs": (["claim"], "running", "running"),
    "a task that succeeds ends its job": (["claim", "succeed"], "succeeded", "succeeded"),
    "a task that fails ends its job": (["claim", "fail"], "failed", "failed"),
    "a task that is handed back is queued": (["claim", "hand back"], "queued", "queued"),
    "a parked task waits": (["claim", "park", "claim"], "parked", "queued"),
    "a parked task that is due is queued": (["claim", "park", "unpark"], "queued", "queued"),
    "a task whose worker is lost is queued": (["claim", "expire"], "queued", "queued"),
    "a task that lost three workers fails": (["claim", "expire"] * 3, "failed", "failed"),
    "a task that was handed back has lost none": (
        ["claim", "expire", "claim", "expire", "claim", "hand back", "claim", "expire"],
        "queued",
        "queued",
    ),
    "a queued task is canceled at once": (["cancel"], "canceled", "canceled"),
    "a parked task is canceled at once": (["claim", "park", "cancel"], "canceled", "canceled"),
    "a running task runs until it is settled": (["claim", "cancel"], "running", "running"),
    "a failure after a cancellation is one": (["claim", "cancel", "fail"], "canceled", "canceled"),
    "a handover after a cancellation is one": (["claim", "cancel", "hand back"], "canceled", "canceled"),
    "a wait after a cancellation is one": (["claim", "cancel", "park"], "canceled", "canceled"),
    "a loss after a cancellation is one": (["claim", "cancel", "expire"], "canceled", "canceled"),
    "a success in spite of a cancellation counts": (["claim", "cancel", "succeed"], "succeeded", "succeeded"),
    "a failed task is retried": (["claim", "fail", "retry"], "queued", "queued"),
    "a canceled task is retried": (["cancel", "retry", "claim"], "running", "running"),
    "a task that succeeded is not retried": (["claim", "succeed", "retry"], "succeeded", "succeeded"),
    "an ended job is not canceled": (["claim", "fail", "cancel"], "failed", "failed"),
    "an unfinished job is not retried": (["claim", "retry"], "running", "running"),
    "a void claim changes nothing": (["claim", "expire", "succeed"], "queued", "queued"),
}


@pytest.mark.parametrize("walk", WALKS)
def test_events_lead_a_task_and_its_job_to(machine: MakeMachine, walk: str) -> None:
    events, place, state = WALKS[walk]
    job = machine(1, 1)
    for event in events:
        job.apply(event)
    assert (job.places(), job.state()) == ([place], state)


def test_a_window_is_kept_full_until_the_job_is_canceled(machine: MakeMachine) -> None:
    job = machine(5, 2)
    assert job.places() == ["queued", "queued", "pending", "pending", "pending"]
    job.apply("claim", 2)
    assert job.places() == ["queued", "queued", "pending", "pending", "pending"]
    job.apply("claim", 0)
    job.apply("succeed", 0)
    assert job.places() == ["succeeded", "queued", "queued", "pending", "pending"]
    job.apply("claim", 1)
    job.apply("park", 1)
    assert job.places() == ["succeeded", "parked", "queued", "pending", "pending"]
    job.apply("claim", 2)
    job.apply("cancel")
    assert (job.places(), job.state()) == (["succeeded", "canceled", "running", "canceled", "canceled"], "running")
    job.apply("fail", 2)
    assert (job.places()[2], job.state()) == ("canceled", "canceled")
    job.apply("retry")
    assert (job.places(), job.state()) == (["succeeded", "queued", "queued", "pending", "pending"], "queued")


def test_the_first_failure_aborts_a_job_that_is_to_end_at_it(machine: MakeMachine) -> None:
    job = machine(6, 4, "abort")
    for number in range(3):
        job.apply("claim", number)
    job.apply("succeed", 0)
    job.apply("park", 1)
    job.apply("claim", 3)
    assert job.places() == ["succeeded", "parked", "running", "running", "queued", "pending"]
    job.apply("fail", 2)
    assert job.places() == ["succeeded", "canceled", "failed", "running", "canceled", "canceled"]
    assert job.state() == "running"
    job.apply("fail", 3)
    assert (job.places()[3], job.state()) == ("canceled", "partial")
    job.apply("retry")
    assert job.places() == ["succeeded", "queued", "queued", "queued", "queued", "pending"]
    for _ in range(3):
        job.apply("claim", 4)
        job.apply("expire", 4)
    assert (job.places()[1:], job.state()) == (["canceled", "canceled", "canceled", "failed", "canceled"], "partial")


def test_a_wait_aborts_nothing(machine: MakeMachine) -> None:
    job = machine(2, 2, "abort")
    for event in ("claim", "park", "unpark", "claim", "hand back", "claim", "expire"):
        job.apply(event)
        assert job.places()[1] == "queued"


@pytest.mark.parametrize("on_error", ON_ERRORS)
@pytest.mark.parametrize("seed", range(6))
def test_the_scripts_do_what_the_table_says(redis: Redis, seed: int, on_error: OnError) -> None:
    chance, events = random.Random(seed), [event for event in get_args(TaskEvent) if event not in ("cancel", "retry")]
    table, valkey = TableMachine(6, 3, on_error), ValkeyMachine(redis, 6, 3, on_error)
    for number in range(120):
        event: TaskEvent = chance.choice(["cancel", "retry"]) if number % 20 == 19 else chance.choice(events)
        task = chance.randrange(6)
        table.apply(event, task)
        valkey.apply(event, task)
        assert (table.places(), table.state()) == (valkey.places(), valkey.state()), (
            f"event {number}: {event} of {task}"
        )


def test_every_place_can_be_reached_and_left_but_success() -> None:
    places = set(get_args(TaskPlace))
    assert set(TASK_TRANSITIONS.values()) == places
    assert {place for place, _ in TASK_TRANSITIONS} == places - {"succeeded"}
