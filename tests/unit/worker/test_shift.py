"""What one work horse does with the tasks that are queued, without the fork."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from mirror.coordination import keys
from mirror.copying.interruption import Interruption
from mirror.records.job import Job
from mirror.records.store import Claim
from tests import images
from tests.e2e.processes import eventually
from tests.fakes.registry import Reply, Request
from tests.plant import Plant
from worker.shift import Shift


def submitted(plant: Plant, count: int) -> list[Job]:
    for number in range(count):
        plant.registry.put(images.image(images.layer(f"layer {number}")), f"team/app{number}", "1")
    return [plant.submit(f"team/app{number}:1") for number in range(count)]


def taken(plant: Plant) -> tuple[str, int]:
    """What RQ would call the horse with."""
    [entry] = plant.queue.take(1)
    return entry


def shift(plant: Plant, interruption: Interruption | None = None, **limits: int) -> Shift:
    return Shift(
        plant.performer,
        plant.queue,
        interruption or Interruption(),
        claimed=lambda _: None,
        settled=lambda _: None,
        **limits,
    )


def states(plant: Plant, jobs: list[Job]) -> list[str]:
    return [plant.store.job(job.id).state for job in jobs]


def held_back(plant: Plant, part_of_path: str) -> threading.Event:
    """Let every answer whose path has this in it wait for the event."""
    gate = threading.Event()

    def hold(request: Request, reply: Reply) -> Reply | None:
        if part_of_path in request.path:
            reply.gate = (0, gate)
        return reply

    plant.registry.script(hold)
    return gate


def test_a_horse_performs_everything_that_is_queued(plant: Plant) -> None:
    jobs = submitted(plant, 12)
    shift(plant).work(*taken(plant))
    assert states(plant, jobs) == ["succeeded"] * 12
    assert plant.queue.take(1) == []


def test_a_task_that_waits_for_its_registry_keeps_no_other_waiting(plant: Plant) -> None:
    jobs = submitted(plant, 4)
    gate = held_back(plant, "app0/manifests")
    with ThreadPoolExecutor(1) as pool:
        working = pool.submit(shift(plant).work, *taken(plant))
        eventually(lambda: states(plant, jobs[1:]) == ["succeeded"] * 3, what="the others have ended")
        assert states(plant, jobs[:1]) == ["running"]
        gate.set()
        working.result(30)
    assert states(plant, jobs) == ["succeeded"] * 4


def test_no_more_tasks_are_claimed_than_may_run_at_once(plant: Plant) -> None:
    jobs = submitted(plant, 5)
    gate = held_back(plant, "/manifests/")
    with ThreadPoolExecutor(1) as pool:
        working = pool.submit(shift(plant, at_once=2).work, *taken(plant))
        eventually(lambda: states(plant, jobs).count("running") == 2, what="two are running")
        assert states(plant, jobs).count("queued") == 3
        gate.set()
        working.result(30)
    assert states(plant, jobs) == ["succeeded"] * 5


def test_a_horse_goes_on_when_all_that_it_performs_has_ended_at_once(plant: Plant) -> None:
    jobs = submitted(plant, 3)
    shift(plant, at_once=1).work(*taken(plant))
    assert states(plant, jobs) == ["succeeded"] * 3
    assert plant.queue.take(1) == []


def test_a_horse_leaves_what_is_beyond_its_share_to_the_next(plant: Plant) -> None:
    jobs = submitted(plant, 5)
    shift(plant, tasks=2).work(*taken(plant))
    assert sorted(states(plant, jobs)) == ["queued"] * 2 + ["succeeded"] * 3
    shift(plant).work(*taken(plant))
    assert states(plant, jobs) == ["succeeded"] * 5


def test_an_interrupted_horse_hands_over_what_it_has_and_takes_nothing_more(plant: Plant) -> None:
    jobs = submitted(plant, 5)
    gate, interruption = held_back(plant, "/blobs/"), Interruption()
    with ThreadPoolExecutor(1) as pool:
        working = pool.submit(shift(plant, interruption, at_once=3).work, *taken(plant))
        eventually(lambda: len(plant.registry.log(path="/blobs/")) >= 3, what="three are copying")
        interruption.interrupt("the worker is shutting down")
        working.result(30)
    gate.set()
    assert states(plant, jobs) == ["queued"] * 5
    shift(plant).work(*taken(plant))
    assert states(plant, jobs) == ["succeeded"] * 5
    assert {plant.store.job(job.id).attempt for job in jobs} == {1}


def lost(plant: Plant, job: Job) -> None:
    """Note that a worker died at the job's task."""
    [task] = plant.store.tasks(job.id, 1)
    plant.redis.call("HSET", keys.task(task.id), "losses", 1)


def test_a_task_that_lost_its_worker_is_performed_alone(plant: Plant) -> None:
    jobs = submitted(plant, 3)
    lost(plant, jobs[0])
    shift(plant).work(*taken(plant))
    assert states(plant, jobs) == ["succeeded", "queued", "queued"]


def test_a_task_that_lost_its_worker_is_left_to_a_horse_of_its_own(plant: Plant) -> None:
    jobs = submitted(plant, 4)
    lost(plant, jobs[2])
    shift(plant).work(*taken(plant))
    assert states(plant, jobs) == ["succeeded", "succeeded", "queued", "queued"]
    shift(plant).work(*taken(plant))
    shift(plant).work(*taken(plant))
    assert states(plant, jobs) == ["succeeded"] * 4


def test_a_stale_entry_is_passed_over(plant: Plant) -> None:
    jobs = submitted(plant, 2)
    [task] = plant.store.tasks(jobs[1].id, 1)
    plant.queue.put(task.id, 17)
    shift(plant).work(*taken(plant))
    assert states(plant, jobs) == ["succeeded"] * 2


def test_every_claim_is_told_before_its_work_and_its_task_behind_it(plant: Plant) -> None:
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

    [job] = submitted(plant, 1)
    [task] = plant.store.tasks(job.id, 1)
    Shift(plant.performer, plant.queue, Interruption(), claimed=note_claim, settled=settled).work(*taken(plant))
    assert told == [f"claimed {task.id}", f"settled {task.id}"]
