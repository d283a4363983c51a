"""The progress that the record of a task shows, and which of it counts when a worker is lost."""

from __future__ import annotations

import pytest

from mirror.copying.ports import PlannedBlob
from mirror.errors import WorkerLost
from mirror.jobs.progress import TaskProgress
from mirror.oci.descriptor import Descriptor
from mirror.oci.digest import Digest
from mirror.records.claims import Claim, ClaimState
from mirror.records.task import ErrorReport
from mirror.redis import keys
from tests.support.harness import Harness
from tests.support.servers import RcloneS3

BLOB = Descriptor("application/octet-stream", Digest.of(b"blob"), 100)
LOST = ErrorReport.of(WorkerLost("task", 3))


@pytest.fixture
def s3_server(rclone_s3: RcloneS3) -> RcloneS3:
    """These tests are about records in Redis. Any S3 server will do."""
    return rclone_s3


def claimed(harness: Harness) -> Claim:
    [task] = harness.jobs.tasks(harness.submit("team/app:1").id, 1)
    claim = harness.records.claim(task.id, task.fence)
    assert claim is not None
    return claim


def losses(harness: Harness, task_id: str) -> int:
    """Lose the task's worker. Return the losses in a row."""
    harness.redis.call("ZADD", keys.TASKS_RUNNING, 1, task_id)
    harness.core.recovery.expire(task_id, LOST)
    task = harness.jobs.task(task_id)
    assert task is not None
    return task.losses


def reported(harness: Harness, claim: Claim, step: str) -> None:
    reporter = TaskProgress(harness.core.claims, claim)
    reporter.planned([PlannedBlob(BLOB, "waiting")])
    reporter.advanced(BLOB.digest, "copying", 40)
    if step == "part":
        reporter.checkpointed(BLOB.digest)
    elif step == "blob":
        reporter.advanced(BLOB.digest, "copied", 100)
    assert reporter.flush() is ClaimState.HELD


@pytest.mark.parametrize(("step", "counted"), [("bytes", 2), ("part", 0), ("blob", 0)])
def test_only_what_the_next_worker_need_not_do_again_is_progress(harness: Harness, step: str, counted: int) -> None:
    claim = claimed(harness)
    assert losses(harness, claim.task.id) == 1
    again = harness.records.claim(claim.task.id, claim.fence)
    assert again is not None
    reported(harness, again, step)
    assert losses(harness, claim.task.id) == counted


def test_nothing_is_written_where_nothing_changed(harness: Harness) -> None:
    claim = claimed(harness)
    reporter = TaskProgress(harness.core.claims, claim)
    assert reporter.flush() is None
    reporter.resolved(BLOB.digest)
    assert [reporter.flush(), reporter.flush()] == [ClaimState.HELD, None]


def test_a_write_says_that_the_job_is_being_canceled(harness: Harness) -> None:
    claim = claimed(harness)
    harness.jobs.cancel(claim.task.job)
    reporter = TaskProgress(harness.core.claims, claim)
    reporter.resolved(BLOB.digest)
    assert reporter.flush() is ClaimState.CANCELING


def test_a_new_plan_takes_the_place_of_the_one_before(harness: Harness) -> None:
    """As of an image whose tag moved while it was copied, also if another worker had planned the first one."""
    claim = claimed(harness)
    other = Descriptor("application/octet-stream", Digest.of(b"other"), 5)
    for reporter in (TaskProgress(harness.core.claims, claim), TaskProgress(harness.core.claims, claim)):
        for blob in (BLOB, other):
            reporter.planned([PlannedBlob(blob, "waiting")])
            assert reporter.flush() is ClaimState.HELD
            reporter.advanced(blob.digest, "copying", 3)
            assert reporter.flush() is ClaimState.HELD
            [found] = harness.jobs.blobs_of([claim.task.id])[0]
            assert (found.digest, found.copied) == (str(blob.digest), 3)
            assert harness.jobs.job(claim.task.job).bytes.total == blob.size


def test_a_blob_that_goes_on_after_all_has_no_reason_any_more(harness: Harness) -> None:
    claim = claimed(harness)
    reporter = TaskProgress(harness.core.claims, claim)
    reporter.planned([PlannedBlob(BLOB, "waiting")])
    reporter.stopped(BLOB.digest, "failed", "it is gone", "BLOB_UNKNOWN")
    reporter.flush()
    [failed] = harness.jobs.blobs_of([claim.task.id])[0]
    assert (failed.state, failed.reason, failed.code) == ("failed", "it is gone", "BLOB_UNKNOWN")
    reporter.advanced(BLOB.digest, "copied", 100)
    reporter.flush()
    [copied] = harness.jobs.blobs_of([claim.task.id])[0]
    assert (copied.state, copied.reason, copied.code) == ("copied", None, None)
