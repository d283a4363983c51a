from __future__ import annotations

import json
from dataclasses import replace

import pytest

from mirror.errors import JobUnknown
from mirror.records.job import ByteCounts, ImageCounts, JobState
from mirror.records.store import ClaimState, JobStore, Outcome
from mirror.records.task import BlobReport, TaskSpec, WaitingFor
from mirror.redis import keys
from mirror.redis.client import Redis
from tests.unit.records.submitted import DIGEST, LOST, SOURCE, claimed, lose, submitted


def test_a_job_reads_as_it_was_submitted(store: JobStore) -> None:
    job, tasks = submitted(store)
    assert store.job(job.id) == job
    assert store.tasks(job.id, 20) == tasks
    assert (job.state, job.attempt, job.images.total) == ("queued", 1, 1)


def test_an_unknown_job_is_said_to_be_unknown(store: JobStore) -> None:
    with pytest.raises(JobUnknown):
        store.job("job_nobody")


def test_a_claim_runs_the_task_and_its_job(store: JobStore) -> None:
    job, [task] = submitted(store)
    claim = claimed(store, task)
    running = store.job(job.id)
    assert (claim.fence, claim.task.state, running.state, running.images.running) == (1, "running", "running", 1)
    assert running.started_at is not None


def test_a_second_entry_for_one_task_claims_nothing(store: JobStore) -> None:
    _, [task] = submitted(store)
    claimed(store, task)
    assert store.claim(task.id, 0) is None
    assert store.claim(task.id, 1) is None
    assert store.claim("task_nobody", 0) is None


def test_settling_ends_the_job_with_its_digest(store: JobStore) -> None:
    job, [task] = submitted(store)
    claim = claimed(store, task)
    assert store.settle(claim, "succeeded", Outcome(DIGEST, unchanged=True))
    ended = store.job(job.id)
    assert (ended.state, ended.digest) == ("succeeded", DIGEST)
    assert ended.images == ImageCounts(total=1, succeeded=1, unchanged=1)
    assert ended.finished_at is not None


def test_settling_twice_counts_once(store: JobStore) -> None:
    job, [task] = submitted(store)
    claim = claimed(store, task)
    assert store.settle(claim, "succeeded", Outcome(DIGEST))
    assert store.settle(claim, "succeeded", Outcome(DIGEST))
    assert store.job(job.id).images == ImageCounts(total=1, succeeded=1)


def test_a_job_of_several_tasks_is_partial_when_some_failed(store: JobStore) -> None:
    job, [one, two] = submitted(store, 2)
    store.settle(claimed(store, one), "succeeded", Outcome(DIGEST))
    assert store.job(job.id).state == "queued"
    store.settle(claimed(store, two), "failed", Outcome(error=LOST))
    ended = store.job(job.id)
    assert (ended.state, ended.error, ended.digest) == ("partial", LOST, None)


def test_a_holder_that_lost_its_lease_can_write_nothing(store: JobStore, redis: Redis) -> None:
    job, [task] = submitted(store)
    late = claimed(store, task)
    lose(redis, task.id)
    fence = store.expire(task.id, LOST)
    assert fence == 1
    assert not store.renew(late)
    assert not store.progress(late, [], ByteCounts(5, 5, 0), digest=None, checkpoints=1)
    assert not store.settle(late, "succeeded", Outcome(DIGEST))
    second = store.claim(task.id, fence)
    assert second is not None
    assert second.fence == 2
    assert not store.settle(late, "failed", Outcome(error=LOST))
    assert store.job(job.id).attempt == 2
    assert store.settle(second, "succeeded", Outcome(DIGEST))


def test_a_lease_that_was_renewed_does_not_expire(store: JobStore, redis: Redis) -> None:
    _, [task] = submitted(store)
    claim = claimed(store, task)
    lose(redis, task.id)
    assert store.expired() == [task.id]
    assert store.renew(claim)
    assert store.expired() == []
    assert store.expire(task.id, LOST) is None


def test_three_losses_in_a_row_without_progress_fail_the_task(store: JobStore, redis: Redis) -> None:
    job, [task] = submitted(store)
    fence: int | None = 0
    for _ in range(3):
        assert fence is not None
        assert store.claim(task.id, fence) is not None
        lose(redis, task.id)
        fence = store.expire(task.id, LOST)
    assert fence is None
    failed = store.job(job.id)
    assert (failed.state, failed.error) == ("failed", LOST)


def test_a_loss_behind_a_checkpoint_does_not_count_and_begins_the_count_anew(store: JobStore, redis: Redis) -> None:
    _, [task] = submitted(store)
    fence: int | None = 0
    for n in range(5):
        assert fence is not None
        claim = store.claim(task.id, fence)
        assert claim is not None
        if n == 2:
            assert store.progress(claim, [], ByteCounts(), digest=None, checkpoints=1)
        lose(redis, task.id)
        fence = store.expire(task.id, LOST)
    assert fence is not None
    found = store.task(task.id)
    assert found is not None
    assert (found.losses, found.attempt) == (2, 6)


def test_handing_over_and_parking_are_no_losses(store: JobStore, redis: Redis) -> None:
    job, [task] = submitted(store)
    handed = claimed(store, task)
    assert store.release(handed)
    assert store.release(handed)
    assert store.job(job.id).state == "queued"
    parked = store.claim(task.id, 1)
    assert parked is not None
    reason = WaitingFor("rate_limited", "2026-01-01T00:00:00+00:00", "docker.io")
    assert store.release(parked, wait=60, waiting_for=reason)
    assert store.job(job.id).waiting_for == reason
    assert store.claim(task.id, 2) is None
    assert store.due() == []
    assert store.unpark(task.id) is None
    redis.call("ZADD", keys.TASKS_PARKED, 1, task.id)
    assert store.due() == [task.id]
    assert store.unpark(task.id) == 2
    again = store.claim(task.id, 2)
    assert again is not None
    assert (again.task.losses, again.task.attempt) == (0, 1)
    assert store.job(job.id).waiting_for is None


def test_progress_adds_up_in_the_job_and_corrects_itself(store: JobStore) -> None:
    job, [one, two] = submitted(store, 2)
    first, second = claimed(store, one), claimed(store, two)
    blob = BlobReport(DIGEST, 2**40, "copying", 10)
    assert store.progress(first, [(0, blob)], ByteCounts(2**40, 10, 0), digest=DIGEST, checkpoints=0)
    assert store.progress(second, [], ByteCounts(7, 0, 7), digest=None, checkpoints=0)
    assert store.job(job.id).bytes == ByteCounts(2**40 + 7, 10, 7)
    assert store.progress(first, [], ByteCounts(2**40, 4, 0), digest=None, checkpoints=0)
    assert store.job(job.id).bytes == ByteCounts(2**40 + 7, 4, 7)
    assert store.blobs_of([one.id])[0] == [blob]


def test_jobs_are_listed_newest_first_in_pages(store: JobStore) -> None:
    ids = [submitted(store)[0].id for _ in range(5)]
    newest, more = store.page(limit=3, before=None, state=None, source=None)
    assert more == newest[-1].id
    rest, end = store.page(limit=3, before=more, state=None, source=None)
    assert end is None
    assert sorted(ids, reverse=True) == [job.id for job in newest + rest]


def test_a_page_reads_no_more_jobs_than_it_shows_and_the_next(store: JobStore, redis: Redis) -> None:
    for _ in range(9):
        submitted(store)
    before = reads(redis)
    assert len(store.page(limit=3, before=None, state=None, source=None)[0]) == 3
    assert reads(redis) - before == 4


def reads(redis: Redis) -> int:
    """How many hashes were ever read whole."""
    found = redis.call("INFO", "commandstats").get("cmdstat_hgetall", {})
    return int(found.get("calls", 0))


def test_jobs_are_listed_by_state_and_source(store: JobStore) -> None:
    wanted, [task] = submitted(store)
    store.settle(claimed(store, task), "succeeded", Outcome(DIGEST))
    submitted(store)
    other, _ = store.submit([TaskSpec.parse("docker.io/library/nginx:1", "x/nginx:1")])

    def listed(*, state: JobState | None = None, source: str | None = None) -> list[str]:
        jobs, more = store.page(limit=10, before=None, state=state, source=source)
        assert more is None
        return [job.id for job in jobs]

    assert listed(state="succeeded") == [wanted.id]
    assert len(listed(state="queued")) == 2
    assert listed(source="docker.io/library/nginx:1") == [other.id]
    assert listed(source=SOURCE, state="succeeded") == [wanted.id]
    assert listed(state="failed") == []


def test_a_job_of_several_images_is_found_by_each_of_its_sources(store: JobStore) -> None:
    specs = [TaskSpec.parse(f"docker.io/library/{name}:1", f"{name}:1") for name in ("nginx", "redis", "alpine")]
    job, tasks = store.submit(specs)
    assert [task.spec for task in tasks] == specs
    for spec in specs:
        assert store.page(limit=5, before=None, state=None, source=str(spec.source)) == ([job], None)


def test_tasks_are_listed_in_the_order_of_their_images_behind_any_of_them(store: JobStore) -> None:
    job, tasks = submitted(store, 50)
    assert store.tasks(job.id, 50) == tasks
    assert store.tasks(job.id, 7, after=tasks[29].id) == tasks[30:37]
    assert store.tasks(job.id, 7, after=tasks[-1].id) == []


def test_a_record_of_a_newer_release_is_read_without_its_new_fields(store: JobStore, redis: Redis) -> None:
    job, _ = submitted(store)
    redis.call("HSET", keys.job(job.id), "novelty", json.dumps({"a": 1}))
    assert store.job(job.id) == job


def test_a_worker_that_gives_its_task_back_ends_a_row_of_losses(store: JobStore, redis: Redis) -> None:
    _, [task] = submitted(store)
    redis.call("HSET", keys.task(task.id), "losses", 2)
    assert store.release(claimed(store, task), wait=5)
    assert store.losses([task.id]) == [0]


def test_many_tasks_are_claimed_and_settled_in_one_turn(store: JobStore) -> None:
    job, tasks = submitted(store, 4)
    claims = store.claim_all([(tasks[0].id, 0), (tasks[1].id, 7), (tasks[2].id, 0), (tasks[2].id, 0)])
    assert [claim and claim.task.id for claim in claims] == [tasks[0].id, None, tasks[2].id, None]
    first, _, third, _ = claims
    assert first is not None
    assert third is not None
    assert store.standings([first, third]) == [ClaimState.HELD] * 2
    stranger = replace(third, token="somebody else's")
    settled = store.settle_all("succeeded", [(first, Outcome(DIGEST, unchanged=True)), (stranger, Outcome(DIGEST))])
    assert settled == [True, False]
    images = store.job(job.id).images
    assert (images.succeeded, images.unchanged, images.running) == (1, 1, 1)
    assert (store.claim_all([]), store.settle_all("succeeded", []), store.standings([])) == ([], [], [])
