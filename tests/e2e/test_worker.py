"""Real worker and scheduler processes that stop, are killed, or share blobs."""

from __future__ import annotations

import os
import signal
from contextlib import ExitStack
from pathlib import Path
from time import monotonic

import pytest

from tests.e2e import sources
from tests.e2e.conftest import MakeFleet
from tests.e2e.fleet import Fleet
from tests.e2e.processes import Process, eventually, is_alive
from tests.e2e.sources import Hold, held_layer
from tests.support import images
from tests.support.fakes.registry import Synthetic
from tests.support.fakes.traffic import Traffic
from tests.support.servers import VersityGateway

MIB = 2**20
PART = 8 * MIB
"""The part size of a large blob with a budget of 32 MiB."""
IMAGES = 20
WORKERS = 4


def test_a_worker_mirrors_what_is_submitted(fleet: Fleet) -> None:
    image = images.three_platforms("x")
    fleet.registry.put(image, "team/app", "1")
    with fleet.worker() as worker:
        first = fleet.ended(fleet.submit("team/app:1"), within=30)
        assert (first.state, first.digest) == ("succeeded", str(image.digest))
        assert fleet.ended(fleet.submit("team/app:1"), within=30).images.unchanged == 1
        assert worker.terminate(within=10) == 0


def test_sigterm_hands_the_task_over_within_seconds_and_the_next_worker_finishes_it(fleet: Fleet) -> None:
    layer = held_layer(fleet.registry, "big")
    with fleet.worker() as worker:
        job = fleet.submit("team/app:1")
        assert layer.reached.wait(30)
        [work_horse] = worker.children()
        assert worker.terminate(within=8) == 0
        assert not is_alive(work_horse)
    handed = fleet.store.job(job.id)
    assert (handed.state, handed.attempt) == ("queued", 1)
    assert not fleet.is_published("team/app:1")
    layer.opened.set()
    with fleet.worker():
        assert fleet.ended(job, within=30).state == "succeeded"


def test_the_work_horse_dies_with_a_worker_that_is_killed_and_the_task_goes_on_elsewhere(fleet: Fleet) -> None:
    layer = held_layer(fleet.registry, "big")
    with fleet.scheduler(), fleet.worker() as worker:
        job = fleet.submit("team/app:1")
        assert layer.reached.wait(30)
        worker.kill_with_children()
        layer.opened.set()
        with fleet.worker():
            ended = fleet.ended(job, within=90)
    assert (ended.state, ended.attempt) == ("succeeded", 2)


def test_a_killed_work_horse_is_replaced_while_its_worker_lives(fleet: Fleet) -> None:
    layer = held_layer(fleet.registry, "big")
    with fleet.scheduler(), fleet.worker() as worker:
        job = fleet.submit("team/app:1")
        assert layer.reached.wait(30)
        [work_horse] = worker.children()
        os.kill(work_horse, signal.SIGKILL)
        layer.opened.set()
        assert fleet.ended(job, within=90).state == "succeeded"


def test_a_worker_survives_a_restart_of_redis_in_the_middle_of_a_copy(fleet: Fleet) -> None:
    layer = held_layer(fleet.registry, "big")
    with fleet.scheduler(), fleet.worker() as worker:
        job = fleet.submit("team/app:1")
        assert layer.reached.wait(30)
        [work_horse] = worker.children()
        fleet.valkey.kill()
        fleet.valkey.restart()
        layer.opened.set()
        ended = fleet.ended(job, within=60)
        assert (ended.state, ended.attempt) == ("succeeded", 1)
        assert worker.child.poll() is None
        eventually(lambda: not is_alive(work_horse), what="the work horse ended after its task")
        fleet.registry.put(images.image(images.layer("next")), "team/next", "1")
        assert fleet.ended(fleet.submit("team/next:1"), within=30).state == "succeeded"


def test_a_worker_without_its_settings_names_the_missing_ones(tmp_path: Path) -> None:
    with Process("worker", {"MIRROR_REDIS_URL": "", "MIRROR_S3_BUCKET": ""}, tmp_path / "log") as worker:
        assert worker.child.wait(20) == 2
    assert "MIRROR_REDIS_URL: must be set" in worker.log.read_text()


@pytest.mark.versitygw
def test_sigterm_in_the_middle_of_a_blob_hands_over_and_the_next_worker_resumes_at_the_checkpoint(
    make_fleet: MakeFleet, versitygw: VersityGateway
) -> None:
    fleet = make_fleet(versitygw, MIRROR_MEMORY_BUDGET="32MiB")
    layer = Synthetic(120 * MIB)
    done = 7
    traffic, hold = Traffic(), Hold(layer.digest, done * PART)
    fleet.registry.script(traffic)
    fleet.registry.script(hold)
    sources.put_large(fleet.registry, "team/app", "1", layer)
    with fleet.worker("first") as first:
        job = fleet.submit("team/app:1")
        fleet.wait_for_frontier(layer.digest, done)
        [work_horse] = first.children()
        signaled = monotonic()
        assert first.terminate(within=10) == 0
        print(f"SIGTERM to the worker's end: {monotonic() - signaled:.2f} s")  # noqa: T201 - a measurement
        assert not is_alive(work_horse)
    handed = fleet.store.job(job.id)
    assert (handed.state, handed.attempt) == ("queued", 1)
    stopped = traffic.mark()
    hold.let_go()
    with fleet.worker("second"):
        ended = fleet.ended(job, within=60)
    assert (ended.state, ended.attempt) == ("succeeded", 1)
    assert traffic.of(layer.digest, since=stopped)[0].start == done * PART
    assert traffic.sent(layer.digest, since=stopped) == layer.size - done * PART


def test_twenty_images_on_four_workers_fetch_the_base_that_they_share_once(fleet: Fleet) -> None:
    traffic = Traffic()
    fleet.registry.script(traffic)
    base = Synthetic(200 * 10**6, "base")
    own = [images.layer(f"own-{number}", 100_000) for number in range(IMAGES)]
    for number, layer in enumerate(own):
        sources.put_large(fleet.registry, f"team/app-{number}", "1", base, small=(layer,))
    with ExitStack() as running:
        running.enter_context(fleet.scheduler())
        workers = [running.enter_context(fleet.worker(f"worker-{number}")) for number in range(WORKERS)]
        jobs = [fleet.submit(f"team/app-{number}:1") for number in range(IMAGES)]
        ended = [fleet.ended(job, within=90) for job in jobs]
        assert all(worker.child.poll() is None for worker in workers)
    assert [job.state for job in ended] == ["succeeded"] * IMAGES
    assert traffic.sent(base.digest) == base.size
    assert [traffic.sent(layer.digest) for layer in own] == [len(layer.content) for layer in own]
