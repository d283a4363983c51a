"""A worker that is told to stop hands over what it has, however far it has come."""

from __future__ import annotations

from time import monotonic

import pytest

from tests.e2e import large_images
from tests.e2e.conftest import MakeFleet
from tests.e2e.processes import is_alive
from tests.e2e.traffic import Hold, Traffic
from tests.fakes.content import Synthetic
from tests.servers import VersityGateway

MIB = 2**20
PART = 8 * MIB


@pytest.mark.versitygw
def test_a_worker_that_is_told_to_stop_amid_a_blob_hands_over_and_the_next_one_goes_on_from_its_checkpoint(
    make_fleet: MakeFleet, versitygw: VersityGateway
) -> None:
    fleet = make_fleet(versitygw, MIRROR_MEMORY_BUDGET="32MiB")
    layer = Synthetic(120 * MIB)
    done = 7
    traffic, hold = Traffic(), Hold(layer.digest, done * PART)
    fleet.registry.script(traffic)
    fleet.registry.script(hold)
    large_images.put(fleet.registry, "team/app", "1", layer)
    with fleet.worker("first") as first:
        job = fleet.submit("team/app:1")
        fleet.reaches(layer.digest, done)
        [horse] = first.children()
        told = monotonic()
        assert first.terminate(within=10) == 0
        print(f"SIGTERM to the worker's end: {monotonic() - told:.2f} s")  # noqa: T201 - for who measures
        assert not is_alive(horse)
    handed = fleet.store.job(job.id)
    assert (handed.state, handed.attempt) == ("queued", 1)
    stopped = traffic.mark()
    hold.let_go()
    with fleet.worker("second"):
        ended = fleet.ended(job, within=60)
    assert (ended.state, ended.attempt) == ("succeeded", 1)
    assert traffic.of(layer.digest, since=stopped)[0].start == done * PART
    assert traffic.sent(layer.digest, since=stopped) == layer.size - done * PART
