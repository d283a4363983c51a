from __future__ import annotations

import pytest
from structlog.testing import capture_logs

from mirror.coordination import keys, redis_retry
from mirror.errors import RedisUnavailable
from mirror.jobs import reconciling
from mirror.queue import entry_id
from mirror.records.task import WaitingFor
from tests import images
from tests.plant import Plant


@pytest.fixture
def old_redis(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let Redis have been up for longer than a lease, as it mostly has, and without any trouble that we know of."""
    monkeypatch.setattr("mirror.coordination.redis.Redis.uptime", lambda _: 3600)
    monkeypatch.setattr(redis_retry, "_OUTAGES", {})


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Miss a queue entry at once instead of after ten seconds."""
    monkeypatch.setattr(reconciling, "ENTRY_SECONDS", -1)


@pytest.mark.usefixtures("old_redis")
def test_a_task_whose_worker_died_is_queued_again_and_finished(plant: Plant) -> None:
    plant.registry.put(images.image(images.layer("a")), "team/app", "1")
    job = plant.submit("team/app:1")
    [task] = plant.store.tasks(job.id, 1)
    assert plant.store.claim(task.id, 0) is not None
    plant.redis.call("ZADD", keys.TASKS_RUNNING, 1, task.id)
    plant.reconciler.reconcile()
    assert plant.queue.holds(task.id, 1)
    assert plant.store.job(job.id).attempt == 2
    assert plant.perform(job).state == "succeeded"


def test_workers_have_a_leases_length_to_come_back_after_redis_did(
    plant: Plant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mirror.coordination.redis.Redis.uptime", lambda _: 3)
    job = plant.submit("team/app:1")
    [task] = plant.store.tasks(job.id, 1)
    claim = plant.store.claim(task.id, 0)
    assert claim is not None
    plant.redis.call("ZADD", keys.TASKS_RUNNING, 1, task.id)
    plant.reconciler.reconcile()
    assert plant.store.renew(claim)


@pytest.mark.usefixtures("old_redis")
def test_workers_have_a_leases_length_to_come_back_after_redis_refused_writes(plant: Plant) -> None:
    job = plant.submit("team/app:1")
    [task] = plant.store.tasks(job.id, 1)
    claim = plant.store.claim(task.id, 0)
    assert claim is not None
    plant.redis.call("ZADD", keys.TASKS_RUNNING, 1, task.id)
    plant.redis.call("CONFIG", "SET", "maxmemory", 1)
    try:
        with pytest.raises(RedisUnavailable):
            plant.reconciler.reconcile()
    finally:
        plant.redis.call("CONFIG", "SET", "maxmemory", 0)
    plant.reconciler.reconcile()
    assert plant.store.renew(claim)
    assert plant.store.job(job.id).attempt == 1


@pytest.mark.usefixtures("old_redis")
def test_a_task_that_was_lost_three_times_fails_and_is_kept(plant: Plant) -> None:
    job = plant.submit("team/app:1")
    [task] = plant.store.tasks(job.id, 1)
    with capture_logs() as logged:
        for fence in range(3):
            assert plant.store.claim(task.id, fence) is not None
            plant.redis.call("ZADD", keys.TASKS_RUNNING, 1, task.id)
            plant.reconciler.reconcile()
    failed = plant.store.job(job.id)
    assert failed.state == "failed"
    assert failed.error is not None
    assert failed.error.code == "WORKER_LOST"
    assert [line["event"] for line in logged] == [*["task lost its worker and is queued again"] * 2, "task failed"]
    assert (logged[-1]["code"], logged[-1]["job_id"]) == ("WORKER_LOST", job.id)


@pytest.mark.usefixtures("impatient")
def test_a_queue_entry_that_was_lost_is_put_back(plant: Plant) -> None:
    job = plant.submit("team/app:1")
    [task] = plant.store.tasks(job.id, 1)
    plant.redis.call("DEL", f"{keys.RQ_PREFIX}:queue:tasks")
    assert not plant.queue.holds(task.id, 0)
    plant.reconciler.reconcile()
    assert plant.queue.holds(task.id, 0)


@pytest.mark.usefixtures("impatient")
def test_an_entry_whose_record_at_rq_is_gone_is_put_back(plant: Plant) -> None:
    job = plant.submit("team/app:1")
    [task] = plant.store.tasks(job.id, 1)
    plant.redis.call("DEL", f"{keys.RQ_PREFIX}:job:{entry_id(task.id, 0)}")
    plant.reconciler.reconcile()
    assert plant.queue.holds(task.id, 0)


def test_an_entry_that_is_there_is_left_alone(plant: Plant) -> None:
    plant.submit("team/app:1")
    plant.reconciler.reconcile()
    plant.reconciler.reconcile()
    assert plant.redis.call("LLEN", f"{keys.RQ_PREFIX}:queue:tasks") == 1


def test_a_parked_task_is_queued_when_its_time_has_come(plant: Plant) -> None:
    job = plant.submit("team/app:1")
    [task] = plant.store.tasks(job.id, 1)
    claim = plant.store.claim(task.id, 0)
    assert claim is not None
    plant.store.release(claim, wait=600, waiting_for=WaitingFor("rate_limited", "2026-01-01T00:00:00Z"))
    plant.reconciler.reconcile()
    assert not plant.queue.holds(task.id, 1)
    plant.redis.call("ZADD", keys.TASKS_PARKED, 1, task.id)
    plant.reconciler.reconcile()
    assert plant.queue.holds(task.id, 1)
