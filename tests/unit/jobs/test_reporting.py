"""What reaches the record of what the engine tells, and what of it counts as progress when a worker is lost."""

from __future__ import annotations

import pytest

from mirror.coordination import keys
from mirror.copying.progress import PlannedBlob
from mirror.errors import WorkerLost
from mirror.jobs.reporting import TaskReporter
from mirror.oci.descriptor import Descriptor
from mirror.oci.digest import Digest
from mirror.records.store import Claim, Standing
from mirror.records.task import ErrorReport
from tests.plant import Plant

BLOB = Descriptor("application/octet-stream", Digest.of(b"blob"), 100)
LOST = ErrorReport.of(WorkerLost("task", 3))


def claimed(plant: Plant) -> Claim:
    [task] = plant.store.tasks(plant.submit("team/app:1").id, 1)
    claim = plant.store.claim(task.id, task.fence)
    assert claim is not None
    return claim


def losses(plant: Plant, task_id: str) -> int:
    """Lose the task's worker; the losses in a row."""
    plant.redis.call("ZADD", keys.TASKS_RUNNING, 1, task_id)
    plant.store.expire(task_id, LOST)
    task = plant.store.task(task_id)
    assert task is not None
    return task.losses


def reported(plant: Plant, claim: Claim, step: str) -> None:
    reporter = TaskReporter(plant.store, claim)
    reporter.planned([PlannedBlob(BLOB, "waiting")])
    reporter.advanced(BLOB.digest, "copying", 40)
    if step == "part":
        reporter.checkpointed(BLOB.digest)
    elif step == "blob":
        reporter.advanced(BLOB.digest, "copied", 100)
    assert reporter.flush() is Standing.HELD


@pytest.mark.parametrize(("step", "counted"), [("bytes", 2), ("part", 0), ("blob", 0)])
def test_only_what_the_next_worker_need_not_do_again_is_progress(plant: Plant, step: str, counted: int) -> None:
    claim = claimed(plant)
    assert losses(plant, claim.task.id) == 1
    again = plant.store.claim(claim.task.id, claim.fence)
    assert again is not None
    reported(plant, again, step)
    assert losses(plant, claim.task.id) == counted


def test_nothing_is_written_where_nothing_changed(plant: Plant) -> None:
    claim = claimed(plant)
    reporter = TaskReporter(plant.store, claim)
    assert reporter.flush() is None
    reporter.resolved(BLOB.digest)
    assert [reporter.flush(), reporter.flush()] == [Standing.HELD, None]


def test_a_write_says_that_the_job_is_being_canceled(plant: Plant) -> None:
    claim = claimed(plant)
    plant.store.cancel(claim.task.job)
    reporter = TaskReporter(plant.store, claim)
    reporter.resolved(BLOB.digest)
    assert reporter.flush() is Standing.CANCELING


def test_a_new_plan_takes_the_place_of_the_one_before(plant: Plant) -> None:
    """As of an image whose tag moved while it was copied, also if another worker had planned the first one."""
    claim = claimed(plant)
    other = Descriptor("application/octet-stream", Digest.of(b"other"), 5)
    for reporter in (TaskReporter(plant.store, claim), TaskReporter(plant.store, claim)):
        for blob in (BLOB, other):
            reporter.planned([PlannedBlob(blob, "waiting")])
            assert reporter.flush() is Standing.HELD
            reporter.advanced(blob.digest, "copying", 3)
            assert reporter.flush() is Standing.HELD
            [found] = plant.store.blobs_of([claim.task.id])[0]
            assert (found.digest, found.copied) == (str(blob.digest), 3)
            assert plant.store.job(claim.task.job).bytes.total == blob.size


def test_a_blob_that_goes_on_after_all_has_no_reason_any_more(plant: Plant) -> None:
    claim = claimed(plant)
    reporter = TaskReporter(plant.store, claim)
    reporter.planned([PlannedBlob(BLOB, "waiting")])
    reporter.stopped(BLOB.digest, "failed", "it is gone", "BLOB_UNKNOWN")
    reporter.flush()
    [failed] = plant.store.blobs_of([claim.task.id])[0]
    assert (failed.state, failed.reason, failed.code) == ("failed", "it is gone", "BLOB_UNKNOWN")
    reporter.advanced(BLOB.digest, "copied", 100)
    reporter.flush()
    [copied] = plant.store.blobs_of([claim.task.id])[0]
    assert (copied.state, copied.reason, copied.code) == ("copied", None, None)
