"""The fleet fetches every blob once, however many images of however many jobs need it."""

from __future__ import annotations

from contextlib import ExitStack

from tests import images
from tests.e2e import large_images
from tests.e2e.fleet import Fleet
from tests.e2e.traffic import Traffic
from tests.fakes.content import Synthetic

IMAGES = 20
WORKERS = 4


def test_twenty_images_on_four_workers_fetch_the_base_that_they_share_once(fleet: Fleet) -> None:
    traffic = Traffic()
    fleet.registry.script(traffic)
    base = Synthetic(200 * 10**6, "base")
    own = [images.layer(f"own-{number}", 100_000) for number in range(IMAGES)]
    for number, layer in enumerate(own):
        large_images.put(fleet.registry, f"team/app-{number}", "1", base, small=(layer,))
    with ExitStack() as running:
        running.enter_context(fleet.scheduler())
        workers = [running.enter_context(fleet.worker(f"worker-{number}")) for number in range(WORKERS)]
        jobs = [fleet.submit(f"team/app-{number}:1") for number in range(IMAGES)]
        ended = [fleet.ended(job, within=90) for job in jobs]
        assert all(worker.child.poll() is None for worker in workers)
    assert [job.state for job in ended] == ["succeeded"] * IMAGES
    assert traffic.sent(base.digest) == base.size
    assert [traffic.sent(layer.digest) for layer in own] == [len(layer.content) for layer in own]
