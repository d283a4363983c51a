"""A registry that is known to work is waited for without a worker; a mistyped one is not."""

from __future__ import annotations

import pytest

from mirror.coordination import keys
from mirror.errors import RegistryFailing
from mirror.jobs.submission import Wanted
from mirror.records.job import Job
from tests import images
from tests.fakes import faults
from tests.fakes.registry import FakeRegistry
from tests.plant import Plant
from tests.unit.coordination.stopped_clock import StoppedClock

NOWHERE = "127.0.0.2"


@pytest.fixture
def clock(plant: Plant) -> StoppedClock:
    return StoppedClock(plant.redis)


@pytest.fixture
def down(plant: Plant) -> faults.Script:
    """A script with which the registry, which has answered before, answers 503."""
    plant.registry.put(images.image(images.layer("a", 100)), "team/app", "1")
    plant.registry.put(images.image(images.layer("b", 100)), "team/app", "2")
    assert plant.mirror("team/app:1").state == "succeeded"
    script = faults.faulty(faults.status(503))
    plant.registry.script(script)
    return script


def later(plant: Plant, clock: StoppedClock, job: Job) -> Job:
    """The job's task, performed when its wait is over."""
    [task] = plant.store.tasks(job.id, 1)
    due = float(plant.redis.call("ZSCORE", keys.TASKS_PARKED, task.id)) / 1000
    clock.advance(max(0.0, due - clock()) + 0.01)
    plant.reconciler.reconcile()
    return plant.perform(job)


def reason(job: Job) -> tuple[str, str, str | None]:
    assert job.waiting_for is not None
    return job.state, job.waiting_for.reason, job.waiting_for.registry


def test_a_known_registry_that_is_down_is_waited_for_and_the_job_succeeds_when_it_is_back(
    plant: Plant, clock: StoppedClock, down: faults.Script
) -> None:
    job = plant.mirror("team/app:2")
    assert reason(job) == ("queued", "registry_failing", plant.registry.host)
    assert reason(later(plant, clock, job)) == ("queued", "registry_failing", plant.registry.host)
    plant.registry.scripts.remove(down)
    assert later(plant, clock, job).state == "succeeded"


@pytest.mark.usefixtures("down")
def test_many_jobs_for_a_dead_registry_cost_it_few_requests(plant: Plant, clock: StoppedClock) -> None:
    jobs = [plant.submit("team/app:2") for _ in range(12)]
    before = len(plant.registry.log())
    for job in jobs:
        assert reason(plant.perform(job))[1] == "registry_failing"
    asked = len(plant.registry.log()) - before
    assert asked == 5 * (1 + 4)  # five failures of a HEAD and four attempts of a GET each, then nobody asks
    clock.advance(20)
    plant.reconciler.reconcile()
    for job in jobs:
        assert reason(plant.perform(job))[1] == "registry_failing"
    assert len(plant.registry.log()) - before - asked == 1 + 4  # the one probe


@pytest.mark.usefixtures("down")
def test_after_an_hour_the_job_fails(plant: Plant, clock: StoppedClock) -> None:
    begun = clock()
    job = plant.mirror("team/app:2")
    for _ in range(3600 // 12):
        job = later(plant, clock, job)
        if job.state != "queued":
            break
    assert job.error is not None
    assert (job.state, job.error.code) == ("failed", "SOURCE_FAILED")
    assert "503" in job.error.message
    assert 3600 < clock() - begun < 3600 + 2 * 300 * 1.2


@pytest.mark.usefixtures("down")
def test_an_outage_long_after_the_last_one_is_a_new_one(plant: Plant, clock: StoppedClock) -> None:
    job = plant.mirror("team/app:2")
    [task] = plant.store.tasks(job.id, 1)
    since = keys.task_waits(task.id)
    patience = RegistryFailing.patience
    assert patience < int(plant.redis.call("TTL", since)) < 2 * patience
    plant.redis.call("DEL", since)  # as its expiry does
    clock.advance(patience + 1)
    assert reason(later(plant, clock, job))[0] == "queued"


def test_a_mistyped_host_fails_at_once(plant: Plant) -> None:
    """Nothing listens there, and nothing ever did."""
    port = plant.registry.host.partition(":")[2]
    for _ in range(7):
        job, _ = plant.submitter.submit([Wanted(f"{NOWHERE}:{port}/team/app:1")])
        failed = plant.perform(job)
        assert failed.error is not None
        assert (failed.state, failed.error.code) == ("failed", "SOURCE_UNREACHABLE")


def test_a_registry_that_never_answered_with_an_image_is_not_waited_for(plant: Plant) -> None:
    """Some web server that answers everything, and then nothing, is no registry that is known to work."""
    assert plant.mirror("team/app:nothing").state == "failed"
    plant.registry.script(faults.faulty(faults.status(500)))
    failed = plant.mirror("team/app:1")
    assert failed.error is not None
    assert failed.error.code == "SOURCE_FAILED"


def test_a_blob_that_its_registry_fails_to_give_is_waited_for_as_well(
    plant: Plant, clock: StoppedClock, registry: FakeRegistry
) -> None:
    plant.registry.put(images.image(images.layer("a", 100)), "team/app", "1")
    script = faults.faulty(faults.status(500), path="/blobs/")
    plant.registry.script(script)
    job = plant.mirror("team/app:1")
    assert reason(job) == ("queued", "registry_failing", registry.host)
    plant.registry.scripts.remove(script)
    assert later(plant, clock, job).state == "succeeded"
