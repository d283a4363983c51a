"""Jobs of the release before are read, continued and removed after an upgrade.

``previous_release/jobs.json`` holds every Redis key of such jobs, as the code of that release wrote them: jobs with
``source`` and ``target`` as fields, with no window, and with an expiry on the keys of ended ones. Bytes are latin-1.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import redis as redis_py

from mirror.errors import JobUnknown
from mirror.queue import NORMAL, TaskQueue
from mirror.records.claims import Claim, ClaimState, Outcome
from mirror.records.job import ByteCounts, Job
from mirror.records.queued import TaskOrigin
from mirror.records.spec import CopySpec
from mirror.records.task import ForeignLayerCounts, WaitingFor
from mirror.redis import keys
from mirror.redis.client import Redis, open_client
from tests.integration.records.submitted import DIGEST, LOST
from tests.support.records import Records
from tests.support.stopped_clock import StoppedClock

WRITTEN: Final[dict[str, Any]] = json.loads((Path(__file__).parent / "previous_release" / "jobs.json").read_text())
RETENTION: Final = 30 * 86400


@pytest.fixture
def records(redis_url: str, redis: Redis) -> Records:
    """The stores on the keys of the release before, as if written just now."""
    later = redis.now() - int(WRITTEN["keys"][keys.CLOCK]["value"])
    with redis_py.Redis.from_url(redis_url) as client:
        for name, key in WRITTEN["keys"].items():
            if name != keys.CLOCK:
                restore(client, name, key, later)
    return Records.on(redis)


def restore(client: redis_py.Redis, name: str, key: dict[str, Any], later: int) -> None:
    value = key["value"]
    if key["type"] == "hash":
        client.hset(name, mapping={encoded(field): encoded(text) for field, text in value.items()})
    elif key["type"] == "zset":
        client.zadd(name, {encoded(member): score + later if score else 0 for member, score in value.items()})
    elif key["type"] == "list":
        client.rpush(name, *map(encoded, value))
    elif key["type"] == "set":
        client.sadd(name, *map(encoded, value))
    else:
        client.set(name, encoded(value))
    if "ttl" in key:
        client.expire(name, key["ttl"])


def encoded(text: str) -> bytes:
    return text.encode("latin-1")


@pytest.fixture
def queue(redis_url: str) -> Iterator[TaskQueue]:
    connection = open_client(redis_url, retries=0, decode_responses=False)
    yield TaskQueue(connection)
    connection.close()


def job_of(records: Records, name: str) -> Job:
    return records.jobs.job(WRITTEN["jobs"][name])


def held(records: Records, job: Job) -> Claim:
    """The claim that a worker has held since before the upgrade."""
    task = next(task for task in records.jobs.tasks(job.id, 9) if task.state == "running")
    token = WRITTEN["keys"][keys.task(task.id)]["value"]["holder"]
    return Claim(task, task.fence, token)


def test_every_job_is_read_and_listed(records: Records) -> None:
    listed, following = records.jobs.page(limit=20, before=None, state=None, source=None)
    assert following is None
    states = {job.id: job.state for job in listed}
    assert {name: states[job_id] for name, job_id in WRITTEN["jobs"].items()} == {
        "queued": "queued",
        "running": "running",
        "parked": "queued",
        "failed": "failed",
        "succeeded": "succeeded",
        "canceled": "canceled",
        "canceling": "running",
        "several": "running",
        "partial": "partial",
    }
    queued = job_of(records, "queued")
    assert queued.spec == CopySpec.parse("docker.io/library/redis:7", "team/redis:stable")
    assert [task.spec for task in records.jobs.tasks(queued.id, 9)] == [queued.spec]
    several = job_of(records, "several")
    assert (several.spec, several.images.total, several.images.succeeded, several.images.failed) == (None, 4, 1, 1)
    sources = [f"team.example.com:5000/several/app{n}:1" for n in range(4)]
    assert [str(task.spec.source) for task in records.jobs.tasks(several.id, 9)] == sources
    for source in ("docker.io/library/redis:7", sources[3]):
        assert len(records.jobs.page(limit=9, before=None, state=None, source=source)[0]) == 1
    assert len(records.jobs.page(limit=9, before=None, state="queued", source=None)[0]) == 2
    failed = job_of(records, "failed")
    assert failed.error is not None
    assert failed.error.code == "MANIFEST_UNKNOWN"
    [parked] = records.jobs.tasks(job_of(records, "parked").id, 9)
    assert parked.waiting_for is not None
    assert parked.waiting_for.reason == "rate_limited"


def test_foreign_layers_are_unknown_for_an_image_of_before_and_zero_for_its_job(records: Records) -> None:
    job = job_of(records, "succeeded")
    assert job.foreign_layers == ForeignLayerCounts()
    assert [task.foreign_layers for task in records.jobs.tasks(job.id, 9)] == [None]


def test_foreign_layers_are_counted_by_a_worker_that_goes_on(records: Records) -> None:
    job = job_of(records, "running")
    claim, counts = held(records, job), ForeignLayerCounts(1, 2)
    for _ in range(2):
        records.claims.progress(claim, [], ByteCounts(), digest=None, checkpoints=1, states={}, foreign_layers=counts)
    assert records.jobs.job(job.id).foreign_layers == counts
    assert [task.foreign_layers for task in records.jobs.tasks(job.id, 9)] == [counts]


def test_a_queued_task_is_taken_from_its_entry_claimed_and_finished(records: Records, queue: TaskQueue) -> None:
    job = job_of(records, "queued")
    entry = queue.take(1)
    assert entry == [(records.jobs.tasks(job.id, 1)[0].id, 0, NORMAL)]
    [claim] = records.claims.claim(entry)
    assert claim is not None
    assert claim.task.spec == CopySpec.parse("docker.io/library/redis:7", "team/redis:stable")
    assert records.queued.origins([claim.task.id]) == [TaskOrigin(job.id, "docker.io")]
    assert records.claims.progress(claim, [], ByteCounts(9, 9, 0), digest=DIGEST, checkpoints=1) is ClaimState.HELD
    assert records.settle(claim, "succeeded", Outcome(DIGEST))
    ended = records.jobs.job(job.id)
    assert (ended.state, ended.digest, ended.bytes.copied) == ("succeeded", DIGEST, 9)


def test_a_worker_goes_on_with_its_claim(records: Records) -> None:
    job = job_of(records, "running")
    claim = held(records, job)
    assert records.claims.renew(claim) is ClaimState.HELD
    assert records.jobs.blobs_of([claim.task.id])[0][0].copied == 40
    assert records.claims.release(claim, wait=5, waiting_for=WaitingFor("rate_limited", "2026-01-01T00:00:00Z"))
    assert records.jobs.job(job.id).state == "queued"


def test_the_task_of_a_lost_worker_is_queued_again(records: Records, redis: Redis) -> None:
    claim = held(records, job_of(records, "running"))
    redis.call("ZADD", keys.TASKS_RUNNING, 1, claim.task.id)
    assert records.recovery.expire(claim.task.id, LOST) == [(claim.task.id, claim.fence, NORMAL)]
    assert records.claim(claim.task.id, claim.fence)


def test_a_parked_task_is_queued_when_its_time_has_come(records: Records, redis: Redis) -> None:
    [task] = records.jobs.tasks(job_of(records, "parked").id, 1)
    redis.call("ZADD", keys.TASKS_PARKED, 1, task.id)
    assert records.recovery.unpark(task.id) == [(task.id, 1, NORMAL)]
    assert records.claim(task.id, 1)


@pytest.mark.parametrize("name", ["queued", "parked", "running", "several"])
def test_an_unfinished_job_is_canceled(records: Records, name: str) -> None:
    job = job_of(records, name)
    records.jobs.cancel(job.id)
    if name in ("running", "several"):
        assert records.claims.renew(held(records, job)) is ClaimState.CANCELING
        records.settle(held(records, job), "canceled", Outcome())
    assert records.jobs.job(job.id).state == {"several": "partial"}.get(name, "canceled")


def test_a_cancellation_from_before_is_finished(records: Records) -> None:
    job = job_of(records, "canceling")
    records.settle(held(records, job), "failed", Outcome(error=LOST))
    assert records.jobs.job(job.id).state == "canceled"


@pytest.mark.parametrize(("name", "count"), [("failed", 1), ("canceled", 1), ("partial", 2)])
def test_an_ended_job_is_retried_finished_and_does_not_expire(
    records: Records, redis: Redis, name: str, count: int
) -> None:
    job = job_of(records, name)
    assert redis.call("TTL", keys.job(job.id)) > 0
    entries = records.jobs.retry(job.id)
    assert len(entries) == count
    own = [keys.job(job.id), keys.job_tasks(job.id), *(keys.task(t.id) for t in records.jobs.tasks(job.id, 9))]
    assert {redis.call("TTL", key) for key in own} == {-1}
    for claim in records.claims.claim(entries):
        assert claim is not None
        assert records.settle(claim, "succeeded", Outcome(DIGEST))
    assert (records.jobs.job(job.id).state, records.jobs.job(job.id).attempt) == ("succeeded", 2)


def test_an_ended_job_is_removed_when_its_retention_is_over(records: Records, redis: Redis) -> None:
    job = job_of(records, "succeeded")
    clock = StoppedClock(redis)
    clock.advance(RETENTION)
    assert records.remove_ended() == 4
    assert not records.delete_leftovers()
    with pytest.raises(JobUnknown):
        records.jobs.job(job.id)
    assert records.jobs.page(limit=9, before=None, state=None, source="docker.io/library/alpine:3.20")[0] == []
    assert redis.call("EXISTS", keys.jobs_by_source("docker.io/library/alpine:3.20")) == 0
