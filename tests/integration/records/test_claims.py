from __future__ import annotations

import json
from dataclasses import replace

import pytest

from mirror.errors import JobUnknown
from mirror.queue import NORMAL
from mirror.records.claims import ClaimState, Outcome
from mirror.records.job import ByteCounts, ImageCounts
from mirror.records.queued import TaskOrigin
from mirror.records.spec import CopySpec, read_spec
from mirror.records.states import JobState
from mirror.records.task import BlobReport, WaitingFor
from mirror.redis import keys
from mirror.redis.client import Redis
from tests.integration.records.submitted import DIGEST, LOST, SOURCE, claimed, lose, submitted
from tests.support.records import Records


def test_a_job_reads_as_it_was_submitted(records: Records) -> None:
    job, tasks = submitted(records)
    assert records.jobs.job(job.id) == job
    assert records.jobs.tasks(job.id, 20) == tasks
    assert (job.state, job.attempt, job.images.total) == ("queued", 1, 1)


def test_an_unknown_job_raises_job_unknown(records: Records) -> None:
    with pytest.raises(JobUnknown):
        records.jobs.job("job_unknown")


def test_a_claim_runs_the_task_and_its_job(records: Records) -> None:
    job, [task] = submitted(records)
    claim = claimed(records, task)
    running = records.jobs.job(job.id)
    assert (claim.fence, claim.task.state, running.state, running.images.running) == (1, "running", "running", 1)
    assert running.started_at is not None


def test_a_second_entry_for_one_task_claims_nothing(records: Records) -> None:
    _, [task] = submitted(records)
    claimed(records, task)
    assert records.claim(task.id, 0) is None
    assert records.claim(task.id, 1) is None
    assert records.claim("task_unknown", 0) is None


def test_settling_ends_the_job_with_its_digest(records: Records) -> None:
    job, [task] = submitted(records)
    claim = claimed(records, task)
    assert records.settle(claim, "succeeded", Outcome(DIGEST, unchanged=True))
    ended = records.jobs.job(job.id)
    assert (ended.state, ended.digest) == ("succeeded", DIGEST)
    assert ended.images == ImageCounts(total=1, succeeded=1, unchanged=1)
    assert ended.finished_at is not None


def test_settling_twice_counts_once(records: Records) -> None:
    job, [task] = submitted(records)
    claim = claimed(records, task)
    assert records.settle(claim, "succeeded", Outcome(DIGEST))
    assert records.settle(claim, "succeeded", Outcome(DIGEST))
    assert records.jobs.job(job.id).images == ImageCounts(total=1, succeeded=1)


def test_a_job_of_several_tasks_is_partial_when_some_failed(records: Records) -> None:
    job, [one, two] = submitted(records, 2)
    records.settle(claimed(records, one), "succeeded", Outcome(DIGEST))
    assert records.jobs.job(job.id).state == "queued"
    records.settle(claimed(records, two), "failed", Outcome(error=LOST))
    ended = records.jobs.job(job.id)
    assert (ended.state, ended.error, ended.digest) == ("partial", LOST, None)


def test_a_holder_that_lost_its_lease_can_write_nothing(records: Records, redis: Redis) -> None:
    job, [task] = submitted(records)
    late = claimed(records, task)
    lose(redis, task.id)
    [(_, fence, _)] = records.recovery.expire(task.id, LOST)
    assert fence == 1
    assert not records.claims.renew(late)
    assert not records.claims.progress(late, [], ByteCounts(5, 5, 0), digest=None, checkpoints=1)
    assert not records.settle(late, "succeeded", Outcome(DIGEST))
    second = records.claim(task.id, fence)
    assert second is not None
    assert second.fence == 2
    assert not records.settle(late, "failed", Outcome(error=LOST))
    assert records.jobs.job(job.id).attempt == 2
    assert records.settle(second, "succeeded", Outcome(DIGEST))


def test_a_lease_that_was_renewed_does_not_expire(records: Records, redis: Redis) -> None:
    _, [task] = submitted(records)
    claim = claimed(records, task)
    lose(redis, task.id)
    assert records.recovery.expired() == [task.id]
    assert records.claims.renew(claim)
    assert records.recovery.expired() == []
    assert records.recovery.expire(task.id, LOST) == []


def test_three_losses_in_a_row_without_progress_fail_the_task(records: Records, redis: Redis) -> None:
    job, [task] = submitted(records)
    entries = [(task.id, 0, NORMAL)]
    for _ in range(3):
        assert records.claim(*entries[0][:2]) is not None
        lose(redis, task.id)
        entries = records.recovery.expire(task.id, LOST)
    assert entries == []
    failed = records.jobs.job(job.id)
    assert (failed.state, failed.error) == ("failed", LOST)


def test_a_loss_after_a_checkpoint_does_not_count_and_resets_the_count(records: Records, redis: Redis) -> None:
    _, [task] = submitted(records)
    fence = 0
    for n in range(5):
        claim = records.claim(task.id, fence)
        assert claim is not None
        if n == 2:
            assert records.claims.progress(claim, [], ByteCounts(), digest=None, checkpoints=1)
        lose(redis, task.id)
        [(_, fence, _)] = records.recovery.expire(task.id, LOST)
    found = records.jobs.task(task.id)
    assert found is not None
    assert (found.losses, found.attempt) == (2, 6)


def test_handing_over_and_parking_are_no_losses(records: Records, redis: Redis) -> None:
    job, [task] = submitted(records)
    handed = claimed(records, task)
    assert records.claims.release(handed)
    assert records.claims.release(handed)
    assert records.jobs.job(job.id).state == "queued"
    parked = records.claim(task.id, 1)
    assert parked is not None
    reason = WaitingFor("rate_limited", "2026-01-01T00:00:00+00:00", "docker.io")
    assert records.claims.release(parked, wait=60, waiting_for=reason)
    assert records.jobs.job(job.id).waiting_for == reason
    assert records.claim(task.id, 2) is None
    assert records.recovery.due() == []
    assert records.recovery.unpark(task.id) == []
    redis.call("ZADD", keys.TASKS_PARKED, 1, task.id)
    assert records.recovery.due() == [task.id]
    assert records.recovery.unpark(task.id) == [(task.id, 2, NORMAL)]
    again = records.claim(task.id, 2)
    assert again is not None
    assert (again.task.losses, again.task.attempt) == (0, 1)
    assert records.jobs.job(job.id).waiting_for is None


def test_progress_adds_up_in_the_job_and_corrects_itself(records: Records) -> None:
    job, [one, two] = submitted(records, 2)
    first, second = claimed(records, one), claimed(records, two)
    blob = BlobReport(DIGEST, 2**40, "copying", 10)
    assert records.claims.progress(first, [(0, blob)], ByteCounts(2**40, 10, 0), digest=DIGEST, checkpoints=0)
    assert records.claims.progress(second, [], ByteCounts(7, 0, 7), digest=None, checkpoints=0)
    assert records.jobs.job(job.id).bytes == ByteCounts(2**40 + 7, 10, 7)
    assert records.claims.progress(first, [], ByteCounts(2**40, 4, 0), digest=None, checkpoints=0)
    assert records.jobs.job(job.id).bytes == ByteCounts(2**40 + 7, 4, 7)
    assert records.jobs.blobs_of([one.id])[0] == [blob]


def test_jobs_are_listed_newest_first_in_pages(records: Records) -> None:
    ids = [submitted(records)[0].id for _ in range(5)]
    newest, more = records.jobs.page(limit=3, before=None, state=None, source=None)
    assert more == newest[-1].id
    rest, end = records.jobs.page(limit=3, before=more, state=None, source=None)
    assert end is None
    assert sorted(ids, reverse=True) == [job.id for job in newest + rest]


def test_a_page_reads_no_more_jobs_than_it_shows_and_the_next(records: Records, redis: Redis) -> None:
    for _ in range(9):
        submitted(records)
    before = reads(redis)
    assert len(records.jobs.page(limit=3, before=None, state=None, source=None)[0]) == 3
    assert reads(redis) - before == 4


def reads(redis: Redis) -> int:
    """How many hashes were ever read whole."""
    found = redis.call("INFO", "commandstats").get("cmdstat_hgetall", {})
    return int(found.get("calls", 0))


def test_jobs_are_listed_by_state_and_source(records: Records) -> None:
    wanted, [task] = submitted(records)
    records.settle(claimed(records, task), "succeeded", Outcome(DIGEST))
    submitted(records)
    other, _, _ = records.jobs.submit([CopySpec.parse("docker.io/library/nginx:1", "x/nginx:1")])

    def listed(*, state: JobState | None = None, source: str | None = None) -> list[str]:
        jobs, more = records.jobs.page(limit=10, before=None, state=state, source=source)
        assert more is None
        return [job.id for job in jobs]

    assert listed(state="succeeded") == [wanted.id]
    assert len(listed(state="queued")) == 2
    assert listed(source="docker.io/library/nginx:1") == [other.id]
    assert listed(source=SOURCE, state="succeeded") == [wanted.id]
    assert listed(state="failed") == []


def test_a_job_of_several_images_is_found_by_each_of_its_sources(records: Records) -> None:
    specs = [CopySpec.parse(f"docker.io/library/{name}:1", f"{name}:1") for name in ("nginx", "redis", "alpine")]
    job, tasks, _ = records.jobs.submit(specs)
    assert [task.spec for task in tasks] == specs
    for spec in specs:
        assert records.jobs.page(limit=5, before=None, state=None, source=str(spec.source)) == ([job], None)


def test_tasks_are_listed_in_the_order_of_their_images_after_any_of_them(records: Records) -> None:
    job, tasks = submitted(records, 50)
    assert records.jobs.tasks(job.id, 50) == tasks
    assert records.jobs.tasks(job.id, 7, after=tasks[29].id) == tasks[30:37]
    assert records.jobs.tasks(job.id, 7, after=tasks[-1].id) == []


def test_a_record_of_a_newer_release_is_read_without_its_new_fields(records: Records, redis: Redis) -> None:
    job, _ = submitted(records)
    redis.call("HSET", keys.job(job.id), "novelty", json.dumps({"a": 1}))
    assert records.jobs.job(job.id) == job


def test_a_worker_that_gives_its_task_back_ends_a_row_of_losses(records: Records, redis: Redis) -> None:
    _, [task] = submitted(records)
    redis.call("HSET", keys.task(task.id), "losses", 2)
    assert records.claims.release(claimed(records, task), wait=5)
    assert records.queued.losses([task.id]) == [0]


def test_many_tasks_are_claimed_and_settled_together(records: Records) -> None:
    job, tasks = submitted(records, 4)
    claims = records.claims.claim([(tasks[n].id, fence, NORMAL) for n, fence in ((0, 0), (1, 7), (2, 0), (2, 0))])
    assert [claim and claim.task.id for claim in claims] == [tasks[0].id, None, tasks[2].id, None]
    first, _, third, _ = claims
    assert first is not None
    assert third is not None
    assert records.claims.states([first, third]) == [ClaimState.HELD] * 2
    stranger = replace(third, token="another worker's")
    settled = records.claims.settle(
        "succeeded", [(first, Outcome(DIGEST, unchanged=True)), (stranger, Outcome(DIGEST))]
    )
    assert settled == [True, False]
    images = records.jobs.job(job.id).images
    assert (images.succeeded, images.unchanged, images.running) == (1, 1, 1)
    assert (records.claims.claim([]), records.claims.settle("succeeded", []), records.claims.states([])) == ([], [], [])


# -- specs


def test_a_spec_reads_as_it_was_written() -> None:
    spec = CopySpec.parse("registry.example.com:5000/team/app:1@sha256:" + "a" * 64, "team/app:1")
    assert read_spec(spec.to_json()) == spec
    assert json.loads(spec.to_json()) == {
        "version": 1,
        "kind": "copy",
        "source": str(spec.source),
        "target": "team/app:1",
    }


UNREADABLE = {
    "a later version": '{"version": 3, "kind": "copy", "source": "docker.io/library/redis:7", "target": "redis:7"}',
    "an unknown kind": '{"version": 1, "kind": "move", "source": "docker.io/library/redis:7", "target": "redis:7"}',
    "a malformed source": '{"version": 1, "kind": "copy", "source": "UPPER/case:7", "target": "redis:7"}',
    "no target": '{"version": 1, "kind": "copy", "source": "docker.io/library/redis:7"}',
    "no object": "[1]",
    "no JSON": "redis:7",
}


@pytest.mark.parametrize("document", UNREADABLE.values(), ids=UNREADABLE)
def test_a_task_whose_spec_cannot_be_read_fails_and_no_other(records: Records, redis: Redis, document: str) -> None:
    with pytest.raises(ValueError, match=r"spec|JSON|Expecting"):
        read_spec(document)
    job, [one, two] = submitted(records, 2)
    redis.call("HSET", keys.task(one.id), "spec", document)
    assert records.jobs.tasks(job.id, 9) == [two]
    assert records.queued.origins([one.id, two.id]) == [None, TaskOrigin(job.id, two.spec.registry)]
    faulty, claim = records.claims.claim([(one.id, 0, NORMAL), (two.id, 0, NORMAL)])
    assert faulty is None
    assert claim is not None
    assert records.settle(claim, "succeeded", Outcome(DIGEST))
    ended = records.jobs.job(job.id)
    assert (ended.state, ended.images.failed, ended.images.running) == ("partial", 1, 0)
    assert ended.error is not None
    assert ended.error.code == "INTERNAL_ERROR"
    assert len(records.jobs.retry(job.id)) == 1


def test_a_job_whose_spec_cannot_be_read_is_listed_without_it(records: Records, redis: Redis) -> None:
    job, _ = submitted(records)
    redis.call("HSET", keys.job(job.id), "spec", UNREADABLE["a later version"])
    assert records.jobs.page(limit=9, before=None, state=None, source=None)[0] == [replace(job, spec=None)]
