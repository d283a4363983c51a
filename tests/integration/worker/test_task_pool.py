"""The threads of one work horse, run in this process without a fork."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from mirror.copying.cancellation import Cancellation
from mirror.queue import NORMAL
from mirror.records.job import Job
from mirror.redis import keys
from tests.e2e.processes import eventually
from tests.support import images
from tests.support.fakes.registry import Reply, Request
from tests.support.harness import Harness
from tests.support.servers import RcloneS3


@pytest.fixture
def s3_server(rclone_s3: RcloneS3) -> RcloneS3:
    """These tests are about the queue and the threads. Any S3 server will do."""
    return rclone_s3


def submitted(harness: Harness, count: int) -> list[Job]:
    for number in range(count):
        harness.registry.put(images.image(images.layer(f"layer {number}")), f"team/app{number}", "1")
    return [harness.submit(f"team/app{number}:1") for number in range(count)]


def states(harness: Harness, jobs: list[Job]) -> list[str]:
    return [harness.jobs.job(job.id).state for job in jobs]


def held_back(harness: Harness, part_of_path: str) -> threading.Event:
    """Make every response wait for the event whose path contains *part_of_path*."""
    release = threading.Event()

    def hold(request: Request, reply: Reply) -> Reply | None:
        if part_of_path in request.path:
            reply.hold = (0, release)
        return reply

    harness.registry.script(hold)
    return release


def test_a_work_horse_runs_everything_that_is_queued(harness: Harness) -> None:
    jobs = submitted(harness, 12)
    harness.pool().run(*harness.take())
    assert states(harness, jobs) == ["succeeded"] * 12
    assert harness.core.queue.take(1) == []


def test_a_task_that_waits_for_its_registry_delays_no_other(harness: Harness) -> None:
    jobs = submitted(harness, 4)
    release = held_back(harness, "app0/manifests")
    with ThreadPoolExecutor(1) as pool:
        working = pool.submit(harness.pool().run, *harness.take())
        eventually(lambda: states(harness, jobs[1:]) == ["succeeded"] * 3, what="the others have ended")
        assert states(harness, jobs[:1]) == ["running"]
        release.set()
        working.result(30)
    assert states(harness, jobs) == ["succeeded"] * 4


def test_no_more_tasks_are_claimed_than_may_run_at_once(harness: Harness) -> None:
    jobs = submitted(harness, 5)
    release = held_back(harness, "/manifests/")
    with ThreadPoolExecutor(1) as pool:
        working = pool.submit(harness.pool(at_once=2).run, *harness.take())
        eventually(lambda: states(harness, jobs).count("running") == 2, what="two are running")
        assert states(harness, jobs).count("queued") == 3
        release.set()
        working.result(30)
    assert states(harness, jobs) == ["succeeded"] * 5


def test_a_work_horse_goes_on_when_all_of_its_tasks_end_at_once(harness: Harness) -> None:
    jobs = submitted(harness, 3)
    harness.pool(at_once=1).run(*harness.take())
    assert states(harness, jobs) == ["succeeded"] * 3
    assert harness.core.queue.take(1) == []


def test_a_work_horse_leaves_tasks_beyond_its_share_to_the_next(harness: Harness) -> None:
    jobs = submitted(harness, 5)
    harness.pool(tasks=2).run(*harness.take())
    assert sorted(states(harness, jobs)) == ["queued"] * 2 + ["succeeded"] * 3
    harness.pool().run(*harness.take())
    assert states(harness, jobs) == ["succeeded"] * 5


def test_an_interrupted_work_horse_hands_over_its_tasks_and_takes_no_more(harness: Harness) -> None:
    jobs = submitted(harness, 5)
    release, cancellation = held_back(harness, "/blobs/"), Cancellation()
    with ThreadPoolExecutor(1) as pool:
        working = pool.submit(harness.pool(cancellation, at_once=3).run, *harness.take())
        eventually(lambda: len(harness.registry.log(path="/blobs/")) >= 3, what="three are copying")
        cancellation.cancel("the worker is shutting down")
        working.result(30)
    release.set()
    assert states(harness, jobs) == ["queued"] * 5
    harness.pool().run(*harness.take())
    assert states(harness, jobs) == ["succeeded"] * 5
    assert {harness.jobs.job(job.id).attempt for job in jobs} == {1}


def lost(harness: Harness, job: Job) -> None:
    """Note that a worker died at the job's task."""
    [task] = harness.jobs.tasks(job.id, 1)
    harness.redis.call("HSET", keys.task(task.id), "losses", 1)


def test_a_task_that_lost_its_worker_runs_alone(harness: Harness) -> None:
    jobs = submitted(harness, 3)
    lost(harness, jobs[0])
    harness.pool().run(*harness.take())
    assert states(harness, jobs) == ["succeeded", "queued", "queued"]


def test_a_task_that_lost_its_worker_is_left_to_a_work_horse_of_its_own(harness: Harness) -> None:
    jobs = submitted(harness, 4)
    lost(harness, jobs[2])
    harness.pool().run(*harness.take())
    assert states(harness, jobs) == ["succeeded", "succeeded", "queued", "queued"]
    harness.pool().run(*harness.take())
    harness.pool().run(*harness.take())
    assert states(harness, jobs) == ["succeeded"] * 4


def test_a_stale_entry_is_passed_over(harness: Harness) -> None:
    jobs = submitted(harness, 2)
    [task] = harness.jobs.tasks(jobs[1].id, 1)
    harness.core.queue.enqueue([(task.id, 17, NORMAL)])
    harness.pool().run(*harness.take())
    assert states(harness, jobs) == ["succeeded"] * 2


def test_a_work_horse_knows_the_claims_that_it_must_hand_over(harness: Harness) -> None:
    """On SIGTERM its watchdog hands over all claims with a heartbeat: those that run, and none that has ended."""
    jobs = submitted(harness, 2)
    [waiting] = harness.jobs.tasks(jobs[0].id, 1)
    release = held_back(harness, "app0/manifests")
    with ThreadPoolExecutor(1) as pool:
        working = pool.submit(harness.pool().run, *harness.take())
        eventually(lambda: states(harness, jobs[1:]) == ["succeeded"], what="the other has ended")
        eventually(
            lambda: [claim.task.id for claim in harness.core.heartbeats.claims()] == [waiting.id],
            what="only the waiting task is still claimed",
        )
        release.set()
        working.result(30)
    assert harness.core.heartbeats.claims() == []
