"""Periodic tasks in threads of their own, under leases in a real Redis."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from mirror.errors import StorageUnavailable
from mirror.locks.lease import Leases
from mirror.redis import keys
from mirror.redis.client import Redis
from worker.periodic import Alive, PeriodicTask, PeriodicTasks


@pytest.fixture
def leases(redis: Redis) -> Leases:
    return Leases(redis)


@contextmanager
def running(leases: Leases, *tasks: PeriodicTask) -> Iterator[PeriodicTasks]:
    periodic = PeriodicTasks(tasks, leases)
    thread = threading.Thread(target=periodic.run)
    thread.start()
    try:
        yield periodic
    finally:
        periodic.stop()
        thread.join(30)
        assert not thread.is_alive()


class Runs:
    """Counts the runs of a task. Each raises *error* if there is one."""

    def __init__(self, error: Exception | None = None) -> None:
        self._error = error
        self._seen = threading.Semaphore(0)

    def __call__(self, _: Alive) -> None:
        self._seen.release()
        if self._error:
            raise self._error

    def has_run(self) -> bool:
        return self._seen.acquire(blocking=False)

    def wait_for(self, count: int) -> bool:
        return all(self._seen.acquire(timeout=30) for _ in range(count))


@pytest.mark.parametrize("error", [StorageUnavailable("list it", "it is away"), ValueError("a fault"), KeyError(1)])
def test_a_task_runs_again_after_any_error(leases: Leases, error: Exception) -> None:
    failing = Runs(error)
    with running(leases, PeriodicTask("failing", 0.01, failing)):
        assert failing.wait_for(3)


def test_a_long_task_delays_no_other_and_learns_of_the_end(leases: Leases) -> None:
    begun, ended, other = threading.Event(), threading.Event(), Runs()

    def long(alive: Alive) -> None:
        begun.set()
        while alive():
            threading.Event().wait(0.01)
        ended.set()

    with running(leases, PeriodicTask("long", 0.01, long), PeriodicTask("other", 0.01, other)):
        assert begun.wait(30)
        assert other.wait_for(3)
        assert not ended.is_set()
    assert ended.wait(30)


def test_one_process_of_the_fleet_runs_a_task_and_another_takes_over(leases: Leases, redis: Redis) -> None:
    first, second = Runs(), Runs()
    with running(leases, PeriodicTask("task", 0.01, first)):
        assert first.wait_for(1)
        with running(leases, PeriodicTask("task", 0.01, second), PeriodicTask("mark", 0.01, mark := Runs())):
            assert mark.wait_for(3)  # by then it has tried to take the lease of the other task
            assert not second.has_run()
    assert not redis.call("EXISTS", keys.periodic_lease("task"))
    with running(leases, PeriodicTask("task", 0.01, second)):
        assert second.wait_for(1)


def test_a_task_learns_that_its_lease_was_lost(leases: Leases, redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.periodic.LEASE_SECONDS", 0.4)
    begun, stopped = threading.Event(), threading.Event()

    def work(alive: Alive) -> None:
        begun.set()
        while alive():
            threading.Event().wait(0.01)
        stopped.set()

    with running(leases, PeriodicTask("task", 60, work)):
        assert begun.wait(30)
        redis.call("SET", keys.periodic_lease("task"), "another process")
        assert stopped.wait(30)
