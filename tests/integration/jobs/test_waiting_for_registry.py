"""Tasks wait without a worker for a registry that has worked before, and not for a mistyped one."""

from __future__ import annotations

import pytest

from mirror.errors import RegistryFailing
from mirror.records.job import Job
from mirror.records.job_request import ImageRequest
from mirror.redis import keys
from tests.support import images
from tests.support.fakes import faults
from tests.support.fakes.registry import FakeRegistry
from tests.support.harness import Harness
from tests.support.servers import RcloneS3
from tests.support.stopped_clock import StoppedClock

NOWHERE = "127.0.0.2"


@pytest.fixture
def s3_server(rclone_s3: RcloneS3) -> RcloneS3:
    """These tests are about the source and Redis. Any S3 server will do."""
    return rclone_s3


@pytest.fixture
def clock(harness: Harness) -> StoppedClock:
    return StoppedClock(harness.redis)


@pytest.fixture
def down(harness: Harness) -> faults.Script:
    """Return a script for 503 responses. The registry has worked before."""
    harness.registry.put(images.image(images.layer("a", 100)), "team/app", "1")
    harness.registry.put(images.image(images.layer("b", 100)), "team/app", "2")
    assert harness.mirror("team/app:1").state == "succeeded"
    script = faults.faulty(faults.status(503))
    harness.registry.script(script)
    return script


def later(harness: Harness, clock: StoppedClock, job: Job) -> Job:
    """The job's task, performed when its wait is over."""
    [task] = harness.jobs.tasks(job.id, 1)
    due = float(harness.redis.call("ZSCORE", keys.TASKS_PARKED, task.id)) / 1000
    clock.advance(max(0.0, due - clock()) + 0.01)
    harness.reconcile()
    return harness.run_tasks(job)


def reason(job: Job) -> tuple[str, str, str | None]:
    assert job.waiting_for is not None
    return job.state, job.waiting_for.reason, job.waiting_for.registry


def test_a_known_registry_that_is_down_is_waited_for_and_the_job_succeeds_when_it_is_back(
    harness: Harness, clock: StoppedClock, down: faults.Script
) -> None:
    job = harness.mirror("team/app:2")
    assert reason(job) == ("queued", "registry_failing", harness.registry.host)
    assert reason(later(harness, clock, job)) == ("queued", "registry_failing", harness.registry.host)
    harness.registry.scripts.remove(down)
    assert later(harness, clock, job).state == "succeeded"


@pytest.mark.usefixtures("down")
def test_many_jobs_for_a_dead_registry_cost_it_few_requests(harness: Harness, clock: StoppedClock) -> None:
    jobs = [harness.submit("team/app:2") for _ in range(12)]
    before = len(harness.registry.log())
    for job in jobs:
        assert reason(harness.run_tasks(job))[1] == "registry_failing"
    asked = len(harness.registry.log()) - before
    assert asked == 5 * (1 + 4)  # five failures of a HEAD and four attempts of a GET each, then none
    clock.advance(20)
    harness.reconcile()
    for job in jobs:
        assert reason(harness.run_tasks(job))[1] == "registry_failing"
    assert len(harness.registry.log()) - before - asked == 1 + 4  # the one probe


@pytest.mark.usefixtures("down")
def test_after_an_hour_the_job_fails(harness: Harness, clock: StoppedClock) -> None:
    begun = clock()
    job = harness.mirror("team/app:2")
    for _ in range(3600 // 12):
        job = later(harness, clock, job)
        if job.state != "queued":
            break
    assert job.error is not None
    assert (job.state, job.error.code) == ("failed", "SOURCE_FAILED")
    assert "503" in job.error.message
    assert 3600 < clock() - begun < 3600 + 2 * 300 * 1.2


@pytest.mark.usefixtures("down")
def test_an_outage_long_after_the_last_one_is_a_new_one(harness: Harness, clock: StoppedClock) -> None:
    job = harness.mirror("team/app:2")
    [task] = harness.jobs.tasks(job.id, 1)
    since = keys.task_waits(task.id)
    patience = RegistryFailing.patience
    assert patience < int(harness.redis.call("TTL", since)) < 2 * patience
    harness.redis.call("DEL", since)  # as its expiry does
    clock.advance(patience + 1)
    assert reason(later(harness, clock, job))[0] == "queued"


def test_a_mistyped_host_fails_at_once(harness: Harness) -> None:
    """Nothing listens there, and nothing ever did."""
    port = harness.registry.host.partition(":")[2]
    for _ in range(7):
        job, _ = harness.core.submitter.submit([ImageRequest(f"{NOWHERE}:{port}/team/app:1")])
        failed = harness.run_tasks(job)
        assert failed.error is not None
        assert (failed.state, failed.error.code) == ("failed", "SOURCE_UNREACHABLE")


def test_a_registry_that_never_answered_with_an_image_is_not_waited_for(harness: Harness) -> None:
    """A web server that responded to any request once, and then fails, has not worked as a registry."""
    assert harness.mirror("team/app:nothing").state == "failed"
    harness.registry.script(faults.faulty(faults.status(500)))
    failed = harness.mirror("team/app:1")
    assert failed.error is not None
    assert failed.error.code == "SOURCE_FAILED"


def test_a_blob_that_its_registry_fails_to_give_is_waited_for_as_well(
    harness: Harness, clock: StoppedClock, registry: FakeRegistry
) -> None:
    harness.registry.put(images.image(images.layer("a", 100)), "team/app", "1")
    script = faults.faulty(faults.status(500), path="/blobs/")
    harness.registry.script(script)
    job = harness.mirror("team/app:1")
    assert reason(job) == ("queued", "registry_failing", registry.host)
    harness.registry.scripts.remove(script)
    assert later(harness, clock, job).state == "succeeded"
