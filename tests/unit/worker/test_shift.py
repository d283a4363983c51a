"""What one work horse does with the tasks that are queued, without the fork."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from mirror.copying.cancellation import Cancellation
from mirror.records.claims import Claim
from mirror.records.job import Job
from mirror.redis import keys
from tests import images
from tests.e2e.processes import eventually
from tests.fakes.registry import Reply, Request
from tests.harness import Harness
from worker.task_pool import TaskPool


def submitted(harness: Harness, count: int) -> list[Job]:
    for number in range(count):
        harness.registry.put(images.image(images.layer(f"layer {number}")), f"team/app{number}", "1")
    return [harness.submit(f"team/app{number}:1") for number in range(count)]


def taken(harness: Harness) -> tuple[str, int]:
    """What RQ would call the horse with."""
    [entry] = harness.queue.take(1)
    return entry


def shift(harness: Harness, cancellation: Cancellation | None = None, **limits: int) -> TaskPool:
    return TaskPool(
        harness.performer,
        harness.queue,
        cancellation or Cancellation(),
        claimed=lambda _: None,
        settled=lambda _: None,
        **limits,
    )


def states(harness: Harness, jobs: list[Job]) -> list[str]:
    return [harness.store.job(job.id).state for job in jobs]


def held_back(harness: Harness, part_of_path: str) -> threading.Event:
    """Let every answer whose path has this in it wait for the event."""
    gate = threading.Event()

    def hold(request: Request, reply: Reply) -> Reply | None:
        if part_of_path in request.path:
            reply.gate = (0, gate)
        return reply

    harness.registry.script(hold)
    return gate


def test_a_horse_performs_everything_that_is_queued(harness: Harness) -> None:
    jobs = submitted(harness, 12)
    shift(harness).work(*taken(harness))
    assert states(harness, jobs) == ["succeeded"] * 12
    assert harness.queue.take(1) == []


def test_a_task_that_waits_for_its_registry_keeps_no_other_waiting(harness: Harness) -> None:
    jobs = submitted(harness, 4)
    gate = held_back(harness, "app0/manifests")
    with ThreadPoolExecutor(1) as pool:
        working = pool.submit(shift(harness).work, *taken(harness))
        eventually(lambda: states(harness, jobs[1:]) == ["succeeded"] * 3, what="the others have ended")
        assert states(harness, jobs[:1]) == ["running"]
        gate.set()
        working.result(30)
    assert states(harness, jobs) == ["succeeded"] * 4


def test_no_more_tasks_are_claimed_than_may_run_at_once(harness: Harness) -> None:
    jobs = submitted(harness, 5)
    gate = held_back(harness, "/manifests/")
    with ThreadPoolExecutor(1) as pool:
        working = pool.submit(shift(harness, at_once=2).work, *taken(harness))
        eventually(lambda: states(harness, jobs).count("running") == 2, what="two are running")
        assert states(harness, jobs).count("queued") == 3
        gate.set()
        working.result(30)
    assert states(harness, jobs) == ["succeeded"] * 5


def test_a_horse_goes_on_when_all_that_it_performs_has_ended_at_once(harness: Harness) -> None:
    jobs = submitted(harness, 3)
    shift(harness, at_once=1).work(*taken(harness))
    assert states(harness, jobs) == ["succeeded"] * 3
    assert harness.queue.take(1) == []


def test_a_horse_leaves_what_is_beyond_its_share_to_the_next(harness: Harness) -> None:
    jobs = submitted(harness, 5)
    shift(harness, tasks=2).work(*taken(harness))
    assert sorted(states(harness, jobs)) == ["queued"] * 2 + ["succeeded"] * 3
    shift(harness).work(*taken(harness))
    assert states(harness, jobs) == ["succeeded"] * 5


def test_an_interrupted_horse_hands_over_what_it_has_and_takes_nothing_more(harness: Harness) -> None:
    jobs = submitted(harness, 5)
    gate, cancellation = held_back(harness, "/blobs/"), Cancellation()
    with ThreadPoolExecutor(1) as pool:
        working = pool.submit(shift(harness, cancellation, at_once=3).work, *taken(harness))
        eventually(lambda: len(harness.registry.log(path="/blobs/")) >= 3, what="three are copying")
        cancellation.cancel("the worker is shutting down")
        working.result(30)
    gate.set()
    assert states(harness, jobs) == ["queued"] * 5
    shift(harness).work(*taken(harness))
    assert states(harness, jobs) == ["succeeded"] * 5
    assert {harness.store.job(job.id).attempt for job in jobs} == {1}


def lost(harness: Harness, job: Job) -> None:
    """Note that a worker died at the job's task."""
    [task] = harness.store.tasks(job.id, 1)
    harness.redis.call("HSET", keys.task(task.id), "losses", 1)


def test_a_task_that_lost_its_worker_is_performed_alone(harness: Harness) -> None:
    jobs = submitted(harness, 3)
    lost(harness, jobs[0])
    shift(harness).work(*taken(harness))
    assert states(harness, jobs) == ["succeeded", "queued", "queued"]


def test_a_task_that_lost_its_worker_is_left_to_a_horse_of_its_own(harness: Harness) -> None:
    jobs = submitted(harness, 4)
    lost(harness, jobs[2])
    shift(harness).work(*taken(harness))
    assert states(harness, jobs) == ["succeeded", "succeeded", "queued", "queued"]
    shift(harness).work(*taken(harness))
    shift(harness).work(*taken(harness))
    assert states(harness, jobs) == ["succeeded"] * 4


def test_a_stale_entry_is_passed_over(harness: Harness) -> None:
    jobs = submitted(harness, 2)
    [task] = harness.store.tasks(jobs[1].id, 1)
    harness.queue.enqueue([(task.id, 17)])
    shift(harness).work(*taken(harness))
    assert states(harness, jobs) == ["succeeded"] * 2


def test_every_claim_is_told_before_its_work_and_its_task_behind_it(harness: Harness) -> None:
    told: list[str] = []
    lock = threading.Lock()

    def tell(what: str) -> Callable[[str], None]:
        def note(task_id: str) -> None:
            with lock:
                told.append(f"{what} {task_id}")

        return note

    claimed, settled = tell("claimed"), tell("settled")

    def note_claim(claim: Claim) -> None:
        claimed(claim.task.id)

    [job] = submitted(harness, 1)
    [task] = harness.store.tasks(job.id, 1)
    TaskPool(harness.performer, harness.queue, Cancellation(), claimed=note_claim, settled=settled).work(
        *taken(harness)
    )
    assert told == [f"claimed {task.id}", f"settled {task.id}"]
