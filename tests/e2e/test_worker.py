"""Real worker and scheduler processes, and what becomes of a task when they are killed."""

from __future__ import annotations

import os
import signal
import threading
from dataclasses import dataclass
from pathlib import Path

from tests import images
from tests.e2e.fleet import Fleet
from tests.e2e.processes import Process, eventually, is_alive
from tests.fakes.registry import FakeRegistry, Reply, Request


@dataclass
class Semaphore:
    """Holds the source's answer for one layer after its first bytes, until it is opened."""

    reached: threading.Event
    opened: threading.Event


def held_layer(registry: FakeRegistry, name: str, *, size: int = 2**20) -> Semaphore:
    """Put team/app:1 with one layer whose bytes stop coming, on every read, until the gate opens."""
    layer = images.layer(name, size)
    registry.put(images.image(layer, images.layer(f"{name}-small")), "team/app", "1")
    gate = Semaphore(threading.Event(), threading.Event())

    def hold(request: Request, reply: Reply) -> Reply | None:
        if str(layer.digest) in request.path and not gate.opened.is_set():
            reply.gate = (1000, gate.opened)
            gate.reached.set()
        return reply

    registry.script(hold)
    return gate


def test_a_worker_mirrors_what_is_submitted(fleet: Fleet) -> None:
    image = images.three_platforms("x")
    fleet.registry.put(image, "team/app", "1")
    with fleet.worker() as worker:
        first = fleet.ended(fleet.submit("team/app:1"), within=30)
        assert (first.state, first.digest) == ("succeeded", str(image.digest))
        assert fleet.ended(fleet.submit("team/app:1"), within=30).images.unchanged == 1
        assert worker.terminate(within=10) == 0


def test_sigterm_hands_the_task_over_within_seconds_and_the_next_worker_finishes_it(fleet: Fleet) -> None:
    gate = held_layer(fleet.registry, "big")
    with fleet.worker() as worker:
        job = fleet.submit("team/app:1")
        assert gate.reached.wait(30)
        [horse] = worker.children()
        assert worker.terminate(within=8) == 0
        assert not is_alive(horse)
    handed = fleet.store.job(job.id)
    assert (handed.state, handed.attempt) == ("queued", 1)
    assert not fleet.is_published("team/app:1")
    gate.opened.set()
    with fleet.worker():
        assert fleet.ended(job, within=30).state == "succeeded"


def test_the_horse_dies_with_a_worker_that_is_killed_and_the_task_goes_on_elsewhere(fleet: Fleet) -> None:
    gate = held_layer(fleet.registry, "big")
    with fleet.scheduler(), fleet.worker() as worker:
        job = fleet.submit("team/app:1")
        assert gate.reached.wait(30)
        [horse] = worker.children()
        worker.child.kill()
        eventually(lambda: not is_alive(horse), within=5, what="the work horse died with its worker")
        gate.opened.set()
        with fleet.worker():
            ended = fleet.ended(job, within=90)
    assert (ended.state, ended.attempt) == ("succeeded", 2)


def test_a_killed_horse_is_replaced_while_its_worker_lives(fleet: Fleet) -> None:
    gate = held_layer(fleet.registry, "big")
    with fleet.scheduler(), fleet.worker() as worker:
        job = fleet.submit("team/app:1")
        assert gate.reached.wait(30)
        [horse] = worker.children()
        os.kill(horse, signal.SIGKILL)
        gate.opened.set()
        assert fleet.ended(job, within=90).state == "succeeded"


def test_a_worker_rides_out_a_restart_of_redis_in_the_middle_of_a_copy(fleet: Fleet) -> None:
    gate = held_layer(fleet.registry, "big")
    with fleet.scheduler(), fleet.worker() as worker:
        job = fleet.submit("team/app:1")
        assert gate.reached.wait(30)
        [horse] = worker.children()
        fleet.valkey.kill()
        fleet.valkey.restart()
        gate.opened.set()
        ended = fleet.ended(job, within=60)
        assert (ended.state, ended.attempt) == ("succeeded", 1)
        assert worker.child.poll() is None
        eventually(lambda: not is_alive(horse), what="the work horse ended after its task")
        fleet.registry.put(images.image(images.layer("next")), "team/next", "1")
        assert fleet.ended(fleet.submit("team/next:1"), within=30).state == "succeeded"


def test_a_worker_without_its_settings_says_what_is_missing(tmp_path: Path) -> None:
    with Process("worker", {"MIRROR_REDIS_URL": "", "MIRROR_S3_BUCKET": ""}, tmp_path / "log") as worker:
        assert worker.child.wait(20) == 2
    assert "MIRROR_REDIS_URL: must be set" in worker.log.read_text()
