from __future__ import annotations

import pytest
from structlog.testing import capture_logs

from mirror.errors import RedisUnavailable
from mirror.jobs import reconcile as reconciling
from mirror.queue import entry_id
from mirror.records.spec import CopySpec
from mirror.records.task import WaitingFor
from mirror.redis import failures, keys
from tests.support import images
from tests.support.harness import Harness
from tests.support.servers import RcloneS3


@pytest.fixture
def s3_server(rclone_s3: RcloneS3) -> RcloneS3:
    """These tests are about records in Redis. Any S3 server will do."""
    return rclone_s3


@pytest.fixture
def old_redis(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let Redis have been up for longer than a lease, without a failure."""
    monkeypatch.setattr("mirror.redis.client.Redis.uptime", lambda _: 3600)
    monkeypatch.setattr(failures, "_OUTAGE_LOGS", {})


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look for missing queue entries at once instead of after ten seconds."""
    monkeypatch.setattr(reconciling, "ENTRY_SECONDS", -1)


@pytest.mark.usefixtures("old_redis")
def test_a_task_whose_worker_died_is_queued_again_and_finished(harness: Harness) -> None:
    harness.registry.put(images.image(images.layer("a")), "team/app", "1")
    job = harness.submit("team/app:1")
    [task] = harness.jobs.tasks(job.id, 1)
    assert harness.records.claim(task.id, 0) is not None
    harness.redis.call("ZADD", keys.TASKS_RUNNING, 1, task.id)
    harness.reconcile()
    assert harness.core.queue.holds(task.id, 1)
    assert harness.jobs.job(job.id).attempt == 2
    assert harness.run_tasks(job).state == "succeeded"


def test_workers_have_a_leases_length_to_come_back_after_redis_did(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mirror.redis.client.Redis.uptime", lambda _: 3)
    job = harness.submit("team/app:1")
    [task] = harness.jobs.tasks(job.id, 1)
    claim = harness.records.claim(task.id, 0)
    assert claim is not None
    harness.redis.call("ZADD", keys.TASKS_RUNNING, 1, task.id)
    harness.reconcile()
    assert harness.core.claims.renew(claim)


@pytest.mark.usefixtures("old_redis")
def test_workers_have_a_leases_length_to_come_back_after_redis_refused_writes(harness: Harness) -> None:
    job = harness.submit("team/app:1")
    [task] = harness.jobs.tasks(job.id, 1)
    claim = harness.records.claim(task.id, 0)
    assert claim is not None
    harness.redis.call("ZADD", keys.TASKS_RUNNING, 1, task.id)
    harness.redis.call("CONFIG", "SET", "maxmemory", 1)
    try:
        with pytest.raises(RedisUnavailable):
            harness.reconcile()
    finally:
        harness.redis.call("CONFIG", "SET", "maxmemory", 0)
    harness.reconcile()
    assert harness.core.claims.renew(claim)
    assert harness.jobs.job(job.id).attempt == 1


@pytest.mark.usefixtures("old_redis")
def test_a_task_that_was_lost_three_times_fails_and_is_kept(harness: Harness) -> None:
    job = harness.submit("team/app:1")
    [task] = harness.jobs.tasks(job.id, 1)
    with capture_logs() as logged:
        for fence in range(3):
            assert harness.records.claim(task.id, fence) is not None
            harness.redis.call("ZADD", keys.TASKS_RUNNING, 1, task.id)
            harness.reconcile()
    failed = harness.jobs.job(job.id)
    assert failed.state == "failed"
    assert failed.error is not None
    assert failed.error.code == "WORKER_LOST"
    assert [line["event"] for line in logged] == [*["task lost its worker and is queued again"] * 2, "task failed"]
    assert (logged[-1]["code"], logged[-1]["job_id"]) == ("WORKER_LOST", job.id)


@pytest.mark.usefixtures("impatient")
def test_a_queue_entry_that_was_lost_is_put_back(harness: Harness) -> None:
    job = harness.submit("team/app:1")
    [task] = harness.jobs.tasks(job.id, 1)
    harness.redis.call("DEL", f"{keys.RQ_PREFIX}:queue:tasks")
    assert not harness.core.queue.holds(task.id, 0)
    harness.reconcile()
    assert harness.core.queue.holds(task.id, 0)


@pytest.mark.usefixtures("impatient")
def test_an_entry_whose_record_at_rq_is_gone_is_put_back(harness: Harness) -> None:
    job = harness.submit("team/app:1")
    [task] = harness.jobs.tasks(job.id, 1)
    harness.redis.call("DEL", f"{keys.RQ_PREFIX}:job:{entry_id(task.id, 0)}")
    harness.reconcile()
    assert harness.core.queue.holds(task.id, 0)


def test_an_entry_that_is_there_is_left_alone(harness: Harness) -> None:
    harness.submit("team/app:1")
    harness.reconcile()
    harness.reconcile()
    assert harness.redis.call("LLEN", f"{keys.RQ_PREFIX}:queue:tasks") == 1


def test_an_ended_job_is_removed_with_its_tasks_and_a_faulty_one_delays_no_other(harness: Harness) -> None:
    jobs = [harness.submit(f"team/app{number}:1") for number in range(2)]
    for job in jobs:
        harness.jobs.cancel(job.id)
        harness.redis.call("ZADD", keys.JOBS_ENDED, jobs.index(job), job.id)
    faulty = keys.job_tasks(jobs[0].id)
    harness.redis.call("DEL", faulty)
    harness.redis.call("SET", faulty, "not a set")
    harness.reconcile()
    assert harness.jobs.page(limit=9, before=None, state=None, source=None) == ([], None)
    assert harness.redis.call("KEYS", f"mirror:*{jobs[1].id}*") == []
    assert float(harness.redis.call("ZSCORE", keys.JOBS_LEFTOVER, jobs[0].id)) > harness.redis.now() + 250_000


def test_a_cancellation_whose_process_died_is_finished(harness: Harness) -> None:
    job = harness.submit("team/app:1")
    harness.redis.call("HSET", keys.job(job.id), "cancel_requested_at", "1", "step", "cancel", "step_after", "")
    harness.redis.call("ZADD", keys.JOBS_WATCHED, 1, job.id)
    harness.reconcile()
    assert harness.jobs.job(job.id).state == "canceled"


def test_tasks_that_were_released_by_a_process_that_died_are_enqueued(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconciling, "ENTRY_SECONDS", -1)
    job, _, entries = harness.jobs.submit([CopySpec.parse("redis:7", "redis:7"), CopySpec.parse("redis:6", "redis:6")])
    assert harness.core.queue.page(0, 9) == []
    harness.reconcile()
    assert sorted(harness.core.queue.page(0, 9)) == entries
    assert harness.jobs.job(job.id).state == "queued"


def test_a_parked_task_is_queued_when_its_time_has_come(harness: Harness) -> None:
    job = harness.submit("team/app:1")
    [task] = harness.jobs.tasks(job.id, 1)
    claim = harness.records.claim(task.id, 0)
    assert claim is not None
    harness.core.claims.release(claim, wait=600, waiting_for=WaitingFor("rate_limited", "2026-01-01T00:00:00Z"))
    harness.reconcile()
    assert not harness.core.queue.holds(task.id, 1)
    harness.redis.call("ZADD", keys.TASKS_PARKED, 1, task.id)
    harness.reconcile()
    assert harness.core.queue.holds(task.id, 1)
