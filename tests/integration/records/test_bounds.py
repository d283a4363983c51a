"""Bounds of a record: how much it holds and for how long, and odd numbers."""

from __future__ import annotations

import json
import re

import pytest

from mirror.copying.ports import PlannedBlob
from mirror.errors import JobUnknown, TaskUnknown
from mirror.jobs.progress import TaskProgress
from mirror.oci.descriptor import MAX_SIZE, Descriptor
from mirror.oci.digest import Digest
from mirror.records.claims import ClaimState, Outcome
from mirror.records.job import ByteCounts
from mirror.records.states import RETENTION_SECONDS
from mirror.records.task import KEPT_BLOBS, SHOWN_BLOBS, BlobReport
from mirror.redis import keys
from mirror.redis.client import Redis
from tests.integration.records.submitted import DIGEST, LOST, SOURCE, claimed, read, submitted
from tests.support.records import Records
from tests.support.stopped_clock import StoppedClock

MANY = 5_000


def blobs(count: int) -> list[Descriptor]:
    return [Descriptor("application/x", Digest.of(str(n).encode()), 100 + n) for n in range(count)]


def planned(found: list[Descriptor]) -> list[PlannedBlob]:
    return [PlannedBlob(blob, "waiting") for blob in found]


# -- blobs


def test_many_blobs_are_counted_exactly_kept_up_to_a_bound_and_shown_by_what_happens_to_them(
    records: Records, redis: Redis
) -> None:
    _, [task] = submitted(records)
    reporter, found = TaskProgress(records.claims, claimed(records, task)), blobs(MANY)
    reporter.planned(planned(found))
    for blob in found[:200]:
        reporter.advanced(blob.digest, "copied", blob.size)
    reporter.advanced(found[4_321].digest, "copying", 7)
    reporter.advanced(found[4_999].digest, "failed")
    assert reporter.flush() is ClaimState.HELD
    now = read(records, task)
    assert now.blob_counts == {"waiting": MANY - 202, "copying": 1, "copied": 200, "failed": 1}
    assert (now.bytes_total, now.bytes_copied) == (
        sum(blob.size for blob in found),
        sum(blob.size for blob in found[:200]) + 7,
    )
    [shown] = records.jobs.blobs_of([task.id])
    assert len(shown) == SHOWN_BLOBS
    assert [(blob.digest, blob.state) for blob in shown[:3]] == [
        (str(found[4_999].digest), "failed"),
        (str(found[4_321].digest), "copying"),
        (str(found[200].digest), "waiting"),
    ]
    assert redis.call("HLEN", keys.task_blobs(task.id)) == KEPT_BLOBS + 1
    assert redis.call("MEMORY", "USAGE", keys.task_blobs(task.id), "SAMPLES", 0) < 300_000


def test_the_blobs_that_are_kept_are_read_in_pages_in_the_plans_order(records: Records) -> None:
    job, [task] = submitted(records)
    reporter, found = TaskProgress(records.claims, claimed(records, task)), blobs(KEPT_BLOBS + 50)
    reporter.planned(planned(found))
    reporter.advanced(found[30].digest, "copying", 3)
    reporter.flush()
    seen: list[BlobReport] = []
    after: int | None = None
    while not seen or after is not None:
        page, after = records.jobs.blobs(job.id, task.id, limit=80, after=after)
        seen += page
    assert [blob.digest for blob in seen] == [str(blob.digest) for blob in found[:KEPT_BLOBS]]
    assert [blob.digest for blob in seen if blob.copied == 3] == [str(found[30].digest)]


def test_an_ordinary_image_shows_all_its_blobs_in_the_plans_order_and_writes_only_what_changed(
    records: Records, redis: Redis
) -> None:
    _, [task] = submitted(records)
    reporter, found = TaskProgress(records.claims, claimed(records, task)), blobs(SHOWN_BLOBS)
    reporter.planned([*planned(found[:98]), PlannedBlob(found[98], "exists"), PlannedBlob(found[99], "skipped", "why")])
    reporter.flush()
    redis.call("HDEL", keys.task_blobs(task.id), "0")
    reporter.advanced(found[5].digest, "copied", found[5].size)
    reporter.flush()
    [shown] = records.jobs.blobs_of([task.id])
    assert [blob.digest for blob in shown] == [str(blob.digest) for blob in found[1:]]
    assert (shown[4].state, shown[97].state, shown[98].reason) == ("copied", "exists", "why")
    assert read(records, task).bytes_skipped == found[98].size
    assert read(records, task).bytes_total == sum(blob.size for blob in found[:99])


def test_a_blob_that_begins_again_takes_its_bytes_back(records: Records) -> None:
    job, [task] = submitted(records)
    reporter, found = TaskProgress(records.claims, claimed(records, task)), blobs(2)
    reporter.planned(planned(found))
    for state, copied in (("copying", 60), ("waiting", 0), ("copying", 20), ("exists", 0)):
        reporter.advanced(found[0].digest, state, copied)  # type: ignore[arg-type]  # mypy sees a plain text
        reporter.flush()
    assert records.jobs.job(job.id).bytes == ByteCounts(201, 0, 100)
    assert read(records, task).blob_counts == {"waiting": 1, "exists": 1}


@pytest.mark.parametrize("task_id", ["task_none", "../x", "task_01JDB2V3R8Y0N5Q7T9W1X3Z5B8"])
def test_blobs_of_a_task_that_is_not_the_jobs_are_unknown(records: Records, task_id: str) -> None:
    job, _ = submitted(records)
    _, [other] = submitted(records)
    for unknown in (task_id, other.id):
        with pytest.raises(TaskUnknown):
            records.jobs.blobs(job.id, unknown, limit=1, after=None)
    with pytest.raises(JobUnknown):
        records.jobs.blobs("job_none", other.id, limit=1, after=None)


# -- numbers


@pytest.mark.parametrize("field", ["bytes_total", "bytes_copied", "bytes_skipped"])
@pytest.mark.parametrize(
    ("value", "read_as"),
    [
        ("9223372036854775807", 2**53),
        ("-9223372036854775808", 0),
        ("1e+300", 2**53),
        ("-1e+300", 0),
        ("inf", 2**53),
        ("nan", 0),
        ("many", 0),
        ("", 0),
        ("5.5", 5),
    ],
)
def test_an_odd_number_that_stands_in_a_record_already_stops_no_task_and_no_retry(
    records: Records, redis: Redis, field: str, value: str, read_as: int
) -> None:
    """As a release before this one left them for blobs of 63 bits."""
    job, [task] = submitted(records)
    claim = claimed(records, task)
    for key in (keys.job(job.id), keys.task(task.id)):
        redis.call("HSET", key, field, value)
    name = field.removeprefix("bytes_")
    assert getattr(records.jobs.job(job.id).bytes, name) == read_as
    assert getattr(read(records, task), field) == read_as
    assert records.claims.progress(claim, [], ByteCounts(10, 10, 10), digest=None, checkpoints=0) is ClaimState.HELD
    assert getattr(records.jobs.job(job.id).bytes, name) == 10
    redis.call("HSET", keys.job(job.id), field, value)
    assert records.settle(claim, "failed", Outcome(error=LOST))
    assert len(records.jobs.retry(job.id)) == 1
    assert 0 <= getattr(records.jobs.job(job.id).bytes, name) <= 2**53


@pytest.mark.parametrize("size", [2**63 - 1, -1, 10**30])
def test_sums_of_sizes_stay_within_bounds_whatever_is_reported(records: Records, size: int) -> None:
    job, [one, two] = submitted(records, 2)
    for task in (one, two):
        claim = claimed(records, task)
        assert (
            records.claims.progress(claim, [], ByteCounts(size, size, size), digest=None, checkpoints=0)
            is ClaimState.HELD
        )
    for total in (records.jobs.job(job.id).bytes.total, read(records, one).bytes_total):
        assert 0 <= total <= 2**53


def test_a_hundred_images_of_the_largest_size_are_summed_exactly(records: Records) -> None:
    job, tasks = submitted(records, 100)
    for task in tasks:
        records.claims.progress(claimed(records, task), [], ByteCounts(MAX_SIZE, 1, 0), digest=None, checkpoints=0)
    assert records.jobs.job(job.id).bytes == ByteCounts(100 * MAX_SIZE, 100, 0)


# -- retention


def everything_of(redis: Redis, *ids: str) -> list[str]:
    """Keys and list entries that name one of these ids."""
    names = [name for name in redis.call("KEYS", "mirror:*") if not name.startswith(keys.RQ_PREFIX)]
    found = [name for name in names if any(each in name for each in ids)]
    for name in names:
        if redis.call("TYPE", name) == "zset":
            found += [f"{name} lists {each}" for each in ids if redis.call("ZSCORE", name, each) is not None]
    return found


@pytest.mark.parametrize("end", ["succeeded", "failed", "canceled", "lost"])
def test_an_ended_job_is_removed_with_everything_that_belongs_to_it(redis: Redis, end: str) -> None:
    records, clock = Records.on(redis, retention=7200), StoppedClock(redis)
    job, [task] = submitted(records)
    claim = claimed(records, task)
    blob = BlobReport(DIGEST, 5, "copying", 1)
    records.claims.progress(claim, [(0, blob)], ByteCounts(5, 1, 0), digest=DIGEST, checkpoints=0)
    if end == "canceled":
        records.claims.release(claim)
        records.jobs.cancel(job.id)
    elif end == "lost":
        redis.call("HSET", keys.task(task.id), "losses", 2)
        redis.call("ZADD", keys.TASKS_RUNNING, 1, task.id)
        redis.call("HSET", keys.task(task.id), "checkpoints_at_claim", 9)
        assert records.recovery.expire(task.id, LOST) == []
    else:
        records.settle(claim, end, Outcome(error=LOST if end == "failed" else None))
    clock.advance(7100)
    assert records.remove_ended() == 0
    assert records.jobs.job(job.id).id == job.id
    clock.advance(200)
    assert records.remove_ended() == 1
    assert not records.delete_leftovers()
    assert everything_of(redis, job.id, task.id) == []
    with pytest.raises(JobUnknown):
        records.jobs.job(job.id)


def test_a_job_that_is_retried_is_kept_until_it_has_ended_again(redis: Redis) -> None:
    records, clock = Records.on(redis, retention=7200), StoppedClock(redis)
    job, [one, two] = submitted(records, 2)
    records.settle(claimed(records, one), "succeeded", Outcome(DIGEST))
    records.settle(claimed(records, two), "failed", Outcome(error=LOST))
    records.jobs.retry(job.id)
    own = [keys.job(job.id), keys.job_tasks(job.id), keys.task(one.id), keys.task(two.id)]
    assert {redis.call("TTL", key) for key in own} == {-1}
    clock.advance(7300)
    assert records.remove_ended() == 0
    assert records.jobs.job(job.id).state == "queued"


def test_only_ended_jobs_are_removed_and_other_jobs_of_its_source_are_left(redis: Redis) -> None:
    records, clock = Records.on(redis, retention=3600), StoppedClock(redis)
    _, [task] = submitted(records)
    records.settle(claimed(records, task), "succeeded", Outcome(DIGEST))
    queued, _ = submitted(records)
    clock.advance(3700)
    assert records.remove_ended() == 1
    for source in (None, SOURCE):
        assert [job.id for job in records.jobs.page(limit=9, before=None, state=None, source=source)[0]] == [queued.id]
    assert records.jobs.page(limit=9, before=None, state="succeeded", source=None)[0] == []


def test_lists_pass_over_jobs_that_have_expired_and_forget_them(records: Records, redis: Redis) -> None:
    """As when no scheduler ran for more than a day."""
    ids = [submitted(records)[0].id for _ in range(5)]
    for job_id in ids[1:4]:
        redis.call("DEL", keys.job(job_id))
    assert [job.id for job in records.jobs.page(limit=2, before=None, state=None, source=None)[0]] == [ids[4], ids[0]]
    assert redis.call("ZCARD", keys.JOBS) == 2


def test_a_job_of_a_release_without_retention_gets_the_default(records: Records, redis: Redis) -> None:
    job, [task] = submitted(records)
    redis.call("HDEL", keys.job(job.id), "retention")
    records.settle(claimed(records, task), "succeeded", Outcome(DIGEST))
    kept_until = float(redis.call("ZSCORE", keys.JOBS_ENDED, job.id))
    assert kept_until - redis.now() == pytest.approx(RETENTION_SECONDS * 1000, abs=60_000)


def test_what_is_kept_of_a_blob_is_small(records: Records, redis: Redis) -> None:
    _, [task] = submitted(records)
    reporter = TaskProgress(records.claims, claimed(records, task))
    reporter.planned(planned(blobs(1)))
    reporter.flush()
    text = redis.call("HGET", keys.task_blobs(task.id), "0")
    assert set(json.loads(text)) == {"digest", "size", "state"}
    assert re.fullmatch(r"[ -~]{1,130}", text)
