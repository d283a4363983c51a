"""The periodic work of a scheduler whose S3 hangs: a server on a real socket that accepts connections and is silent."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial

import pytest

from mirror.queue import NORMAL
from mirror.records.spec import CopySpec
from mirror.records.task import WaitingFor
from mirror.redis import keys
from mirror.wiring import Core, build
from tests.conftest import MakeSettings
from tests.e2e.processes import eventually
from tests.support.fakes.sockets import DrippingServer
from worker import scheduler
from worker.periodic import PeriodicTasks
from worker.scheduler import periodic_tasks


@pytest.fixture
def silent_s3() -> Iterator[DrippingServer]:
    with DrippingServer(b"", b"") as server:
        yield server


@pytest.fixture
def core(
    silent_s3: DrippingServer, redis_url: str, settings: MakeSettings, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Core]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "id")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    place = {"s3_endpoint": f"http://{silent_s3.host}", "s3_bucket": "images"}
    with closing(build(settings(redis_url=redis_url, **place))) as core:
        yield core


@contextmanager
def scheduling(core: Core) -> Iterator[None]:
    """Run all periodic work in threads, as the scheduler does."""
    tasks = PeriodicTasks(periodic_tasks(core), core.leases)
    thread = threading.Thread(target=tasks.run)
    thread.start()
    try:
        yield
    finally:
        tasks.stop()
        thread.join(30)
        assert not thread.is_alive()


def queued_without_entry(core: Core, name: str) -> tuple[str, int]:
    """Store a job whose task has no entry in the queue. Return the entry that it needs."""
    _, [task], _ = core.jobs.submit([CopySpec.parse(name, f"copies/{name}:1")])
    return task.id, task.fence


def parked(core: Core, name: str) -> tuple[str, int]:
    """Store a job whose task waited until now. Return the entry that it needs."""
    [claim] = core.claims.claim([(*queued_without_entry(core, name), NORMAL)])
    assert claim is not None
    assert core.claims.release(claim, wait=600, waiting_for=WaitingFor("quota", "2030-01-01T00:00:00Z"))
    core.redis.call("ZADD", keys.TASKS_PARKED, "XX", 1, claim.task.id)
    return claim.task.id, claim.fence


def are_queued(core: Core, entries: list[tuple[str, int]]) -> bool:
    return all(core.queue.holds(*entry) for entry in entries)


def is_renewed(core: Core, name: str) -> Callable[[], bool]:
    """Return a function that says whether the lease of a periodic task has gained time since its first call."""
    seen: list[int] = []

    def gained() -> bool:
        seen.append(int(core.redis.call("PTTL", keys.periodic_lease(name))))
        return seen[-1] > min(seen)

    return gained


def test_an_upload_purge_that_hangs_in_s3_delays_neither_the_reconciler_nor_the_end_of_waits(
    core: Core, silent_s3: DrippingServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rebuild of the index and the look for releases hang too. Each keeps its lease meanwhile."""
    monkeypatch.setattr("mirror.jobs.reconcile.ENTRY_SECONDS", -1)
    monkeypatch.setattr(scheduler, "RECONCILE_SECONDS", 0.01)
    monkeypatch.setattr(scheduler, "UNPARK_SECONDS", 0.01)
    monkeypatch.setattr("worker.periodic.LEASE_SECONDS", 4.0)
    hanging = {"rebuild", "purge_uploads", "releases"}
    with scheduling(core):
        eventually(lambda: silent_s3.listeners == len(hanging), what="all wait for S3")
        for _ in range(2):
            entries = [queued_without_entry(core, "redis"), parked(core, "postgres")]
            eventually(partial(are_queued, core, entries), what="both are queued")
        for name in hanging:
            eventually(is_renewed(core, name), what=f"the lease of {name} is renewed")
        assert silent_s3.listeners == len(hanging)
        silent_s3.over.set()
