"""Real workers on jobs of all sizes and priorities: which images begin, and that none waits for good.

What a test asserts is the order of events. A gate holds images back until the test has seen what it wants to see.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import threading
from collections import Counter
from collections.abc import Callable

from rq import Queue

from mirror.jobs.retry import retry_job
from mirror.queue import TASK_FUNCTION, TaskQueue, entry_id
from mirror.records.job import USUAL, Job, JobOptions, Priority
from mirror.records.job_request import ImageRequest
from mirror.records.spec import CopySpec
from mirror.records.states import FAIR_SHARE
from mirror.redis.client import open_client
from tests.e2e.fleet import Fleet
from tests.e2e.processes import eventually
from tests.support import images
from tests.support.fakes.registry import Reply, Request
from worker.task_pool import AT_ONCE

URGENT: tuple[Priority, ...] = ("high", "normal")
_NAME = re.compile(r"/v2/([a-z-]+)/app(\d+)/")


def base(name: str) -> images.Layer:
    """The layer that all images of a job share."""
    return images.layer(f"base of {name}", 5000)


class Gate:
    """A script that holds back the base of some jobs.

    Their images wait for it, and take one connection to the registry for each job.
    """

    def __init__(self, *held: str) -> None:
        self.opened = threading.Event()
        self._held = {str(base(name).digest) for name in held}

    def __call__(self, request: Request, reply: Reply) -> Reply | None:
        if request.path.rpartition("/")[2] in self._held:
            reply.hold = (0, self.opened)
        return reply


def put(fleet: Fleet, name: str, count: int) -> list[ImageRequest]:
    """Put images of a common and an own layer into the registry."""
    for number in range(count):
        image = images.image(base(name), images.layer(f"{name} {number}", 2000))
        fleet.registry.put(image, f"{name}/app{number}", "1")
    return [ImageRequest(f"{fleet.registry.host}/{name}/app{number}:1") for number in range(count)]


def running(fleet: Fleet, *jobs: Job) -> int:
    """How many images of the jobs are copied now."""
    return sum(fleet.store.job(job.id).images.running for job in jobs)


def submit(fleet: Fleet, name: str, count: int, options: JobOptions = USUAL) -> Job:
    return fleet.submitter.submit(put(fleet, name, count), options)[0]


def starts(fleet: Fleet) -> list[str]:
    """The job's name of each image, in the order in which a worker first asked for them."""
    found = [_NAME.match(request.path) for request in fleet.registry.log(path="/manifests/1")]
    return [image[0] for image in dict.fromkeys(match and match.groups() for match in found) if image]


def state(fleet: Fleet, job: Job) -> str:
    return fleet.store.job(job.id).state


def has_ended(fleet: Fleet, *jobs: Job) -> Callable[[], bool]:
    return lambda: all(fleet.store.job(job.id).finished_at for job in jobs)


def test_small_jobs_end_while_a_large_one_has_every_slot_of_the_only_worker(fleet: Fleet) -> None:
    gate = Gate("large")
    fleet.registry.script(gate)
    with fleet.worker():
        large = submit(fleet, "large", 40)
        eventually(lambda: running(fleet, large) == AT_ONCE, what="the large job has all slots")
        small = [submit(fleet, name, 1, JobOptions(priority=name)) for name in URGENT]
        eventually(has_ended(fleet, *small), within=60, what="the small jobs have ended")
        assert [state(fleet, job) for job in small] == ["succeeded"] * 2
        now = fleet.store.job(large.id).images
        assert (now.succeeded, now.running) == (0, AT_ONCE)
        gate.opened.set()
        assert fleet.ended(large, within=90).images.succeeded == 40


def test_a_job_of_every_priority_begins_while_another_has_more_images_than_slots(fleet: Fleet) -> None:
    """Even the low one, which was posted last: lanes take turns."""
    gate = Gate("large", "high", "low")
    fleet.registry.script(gate)
    jobs = [
        submit(fleet, name, 40, options) for name, options in (("large", USUAL), ("low", JobOptions(priority="low")))
    ]
    jobs.append(submit(fleet, "high", 1, JobOptions(priority="high")))
    with fleet.worker():
        eventually(lambda: running(fleet, *jobs) >= AT_ONCE, what="all slots are taken")
        large, low, high = (running(fleet, job) for job in jobs)
        assert high == 1
        assert low >= 1
        assert large >= AT_ONCE // 2
        gate.opened.set()
        for job in jobs:
            assert fleet.ended(job, within=90).state == "succeeded"


def test_the_images_of_three_large_jobs_are_copied_by_turns(fleet: Fleet) -> None:
    """The third job has begun half of its images when the first job begins its last one."""
    names, count = ("first", "second", "third"), 5 * FAIR_SHARE
    jobs = [submit(fleet, name, count) for name in names]
    with fleet.worker():
        for job in jobs:
            assert fleet.ended(job, within=120).images.succeeded == count
    order = starts(fleet)
    assert Counter(order) == dict.fromkeys(names, count)
    last_of_first = max(place for place, name in enumerate(order) if name == "first")
    begun = Counter(order[:last_of_first])
    assert min(begun["second"], begun["third"]) >= count // 2


def test_no_entry_is_lost_with_a_worker_that_is_killed(fleet: Fleet) -> None:
    """Neither those that it had taken, nor those that it left in the lanes."""
    gate = Gate("large", "low")
    fleet.registry.script(gate)
    jobs = [submit(fleet, "large", 20), submit(fleet, "low", 4, JobOptions(priority="low"))]
    with fleet.scheduler():
        with fleet.worker("killed") as worker:
            eventually(lambda: running(fleet, *jobs) >= AT_ONCE, what="all slots are taken")
            [work_horse] = worker.children()
            os.kill(worker.child.pid, signal.SIGKILL)
            os.kill(work_horse, signal.SIGKILL)
        gate.opened.set()
        with fleet.worker("next"):
            for job in jobs:
                assert fleet.ended(job, within=120).state == "succeeded"


def test_a_failure_stops_a_job_that_is_to_abort_and_a_retry_finishes_it(fleet: Fleet) -> None:
    gate = Gate("large")
    fleet.registry.script(gate)
    requests = put(fleet, "large", 30)
    missing = ImageRequest(f"{fleet.registry.host}/missing/app0:1")
    job, _ = fleet.submitter.submit([missing, *requests], JobOptions(on_error="abort"))
    with fleet.scheduler(), fleet.worker():
        aborted = fleet.ended(job, within=60)
        assert (aborted.state, aborted.images.failed, aborted.images.canceled) == ("failed", 1, 30)
        assert aborted.error is not None
        assert aborted.error.code in ("NAME_UNKNOWN", "MANIFEST_UNKNOWN")
        put(fleet, "missing", 1)
        gate.opened.set()
        with contextlib.closing(open_client(fleet.valkey.url, retries=0, decode_responses=False)) as raw:
            retry_job(fleet.store, TaskQueue(raw), job.id)
        assert fleet.ended(job, within=90).images.succeeded == 31


def test_entries_of_an_earlier_release_are_taken_by_a_worker_of_this_one(fleet: Fleet) -> None:
    """That release had one queue. Its service may still run while the workers are new."""
    specs = [CopySpec.parse(image.source, f"old{n}:1") for n, image in enumerate(put(fleet, "old", AT_ONCE + 2))]
    job, tasks, _ = fleet.store.submit(specs)
    with contextlib.closing(open_client(fleet.valkey.url, retries=0, decode_responses=False)) as raw:
        earlier = Queue("tasks", connection=raw, serializer="json")
        for task in tasks:
            earlier.enqueue(TASK_FUNCTION, task.id, task.fence, job_id=entry_id(task.id, task.fence), job_timeout=-1)
    with fleet.worker():
        assert fleet.ended(job, within=60).state == "succeeded"
