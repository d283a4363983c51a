"""One task whose record Redis cannot use: it fails, and every other task of the process goes on.

Records are broken in a real Valkey, while all tasks are being performed by one process.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from mirror.background import fault_counts
from mirror.copying.cancellation import Cancellation
from mirror.queue import NORMAL
from mirror.records.claims import Outcome
from mirror.records.job import Job
from mirror.records.task import Task
from mirror.redis import keys
from tests.e2e.processes import eventually
from tests.support import images
from tests.support.fakes.registry import Reply, Request
from tests.support.harness import Harness
from tests.support.servers import RcloneS3

Break = Callable[[Harness, str, str], None]


@pytest.fixture
def s3_server(rclone_s3: RcloneS3) -> RcloneS3:
    """These tests are about records in Redis. Any S3 server will do."""
    return rclone_s3


def replace_blobs(harness: Harness, task_id: str, _: str) -> None:
    harness.redis.call("SET", keys.task_blobs(task_id), "not a hash")


def replace_record(harness: Harness, task_id: str, _: str) -> None:
    harness.redis.call("DEL", keys.task(task_id))
    harness.redis.call("SET", keys.task(task_id), "not a hash")


def replace_list(harness: Harness, task_id: str, _: str) -> None:
    harness.redis.call("DEL", keys.task(task_id))
    harness.redis.call("RPUSH", keys.task(task_id), "not", "a", "hash")


def lose_job(harness: Harness, task_id: str, _: str) -> None:
    harness.redis.call("HDEL", keys.task(task_id), "job")


def only_task(harness: Harness, job: Job) -> Task:
    [task] = harness.jobs.tasks(job.id, 1)
    return task


def put(harness: Harness, *names: str) -> None:
    for name in names:
        harness.registry.put(images.image(images.layer(name, 200_000)), f"team/{name}", "1")


def state(harness: Harness, job: Job) -> tuple[str, str | None]:
    now = harness.jobs.job(job.id)
    return now.state, now.error.code if now.error else None


@pytest.mark.parametrize("spoil", [replace_blobs, replace_record, replace_list])
def test_a_record_that_cannot_be_written_fails_its_own_task_and_no_other(harness: Harness, spoil: Break) -> None:
    put(harness, "faulty", "one", "two")
    jobs = {name: harness.submit(f"team/{name}:1") for name in ("faulty", "one", "two")}
    faulty, release = only_task(harness, jobs["faulty"]), threading.Event()

    def hold(request: Request, reply: Reply) -> Reply | None:
        if "/faulty/" in request.path and request.method == "HEAD":
            spoil(harness, faulty.id, faulty.job)
        if "/blobs/" in request.path:
            reply.hold = (1000, release)
        return reply

    harness.registry.script(hold)
    before = fault_counts().get("renewing a claim", 0)
    with ThreadPoolExecutor(3) as pool:
        performed = {name: pool.submit(harness.run_tasks, job) for name, job in jobs.items()}
        eventually(lambda: state(harness, jobs["faulty"])[0] == "failed", what="the faulty one has failed")
        assert [harness.jobs.job(jobs[name].id).state for name in ("one", "two")] == ["running"] * 2
        release.set()
        assert {name: done.result(60).state for name, done in performed.items() if name != "faulty"} == {
            "one": "succeeded",
            "two": "succeeded",
        }
        performed["faulty"].result(60)
    assert state(harness, jobs["faulty"]) == ("failed", "INTERNAL_ERROR")
    ended = only_task(harness, jobs["faulty"])
    assert (ended.state, ended.spec, harness.jobs.job(jobs["faulty"].id).images.running) == (
        "failed",
        faulty.spec,
        0,
    )
    assert fault_counts()["renewing a claim"] > before
    assert harness.jobs.retry(jobs["faulty"].id) != []


@pytest.mark.parametrize("spoil", [replace_record, lose_job])
def test_tasks_are_claimed_and_settled_together_though_one_of_them_cannot_be(harness: Harness, spoil: Break) -> None:
    job = harness.submit_all(("team/a:1", None), ("team/b:1", None), ("team/c:1", None))
    first, second, third = harness.jobs.tasks(job.id, 3)
    spoil(harness, second.id, job.id)
    claims = harness.core.claims.claim([(task.id, task.fence, NORMAL) for task in (first, second, third)])
    assert [claim is not None for claim in claims] == [True, False, True]
    held = [claim for claim in claims if claim]
    spoil(harness, first.id, job.id)
    assert harness.core.claims.settle("succeeded", [(claim, Outcome()) for claim in held])[1]
    assert harness.core.queued.losses([first.id, second.id, third.id])[2] == 0
    assert harness.jobs.job(job.id).images.succeeded == 1


def test_a_task_that_cannot_be_begun_fails_and_the_others_are_begun(harness: Harness) -> None:
    """The numbers of a tag's sequence are one key for each repository."""
    put(harness, "one", "two")
    jobs = [harness.submit("team/one:1", "prod/one:1"), harness.submit("team/two:1", "prod/two:1")]
    harness.redis.call("SET", keys.tag_taken("prod/one"), "not a hash")
    entries = [(task.id, task.fence, NORMAL) for task in (only_task(harness, job) for job in jobs)]
    [claimed] = harness.core.claimer.claim(entries, Cancellation())
    assert [claim.task.id for claim in harness.core.heartbeats.claims()] == [claimed.id]
    harness.core.runner.run(claimed)
    assert [state(harness, job) for job in jobs] == [("failed", "INTERNAL_ERROR"), ("succeeded", None)]


@pytest.mark.parametrize("watched", [keys.TASKS_RUNNING, keys.TASKS_PARKED, keys.TASKS_QUEUED])
def test_the_reconciler_passes_a_task_whose_record_cannot_be_used_and_finds_the_others(
    harness: Harness, watched: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mirror.redis.client.Redis.uptime", lambda _: 3600)
    monkeypatch.setattr("mirror.jobs.reconcile.ENTRY_SECONDS", -1)
    put(harness, "good")
    good, faulty = harness.submit("team/good:1"), harness.submit("team/faulty:1")
    tasks = [only_task(harness, job) for job in (good, faulty)]
    for task in tasks:
        if watched != keys.TASKS_QUEUED:
            claim = harness.records.claim(task.id, 0)
            assert claim is not None
            if watched == keys.TASKS_PARKED:
                harness.core.claims.release(claim, wait=600)
    harness.redis.call("DEL", f"{keys.RQ_PREFIX}:queue:tasks")
    harness.redis.call("ZADD", watched, 2, tasks[0].id, 1, tasks[1].id)
    replace_record(harness, tasks[1].id, "")
    harness.reconcile()
    assert harness.core.queue.holds(tasks[0].id, 0 if watched == keys.TASKS_QUEUED else 1)
    assert harness.run_tasks(good).state == "succeeded"
    later = float(harness.redis.call("ZSCORE", watched, tasks[1].id))
    assert harness.redis.now() + 250_000 < later < harness.redis.now() + 350_000
