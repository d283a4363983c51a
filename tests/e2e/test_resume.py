"""A copy that was interrupted in the middle of a blob resumes there."""

from __future__ import annotations

from pathlib import Path

import pytest

from mirror.storage import layout
from tests.e2e import sources
from tests.e2e.conftest import MakeFleet
from tests.e2e.fleet import Fleet
from tests.e2e.processes import eventually
from tests.e2e.sources import Hold
from tests.support import images
from tests.support.fakes.registry import Synthetic
from tests.support.fakes.traffic import Traffic
from tests.support.servers import RcloneS3, VersityGateway

MIB = 2**20
PART = 8 * MIB
"""The part size of a large blob with a budget of 32 MiB, which holds four parts."""
BUDGET = {"MIRROR_MEMORY_BUDGET": "32MiB"}
IN_FLIGHT = 32 * MIB


def held_at(fleet: Fleet, layer: Synthetic, parts: int, *small: images.Layer) -> tuple[Traffic, Hold]:
    """Put team/app:1 with *layer*, of which only that many parts are sent at first."""
    traffic, hold = Traffic(), Hold(layer.digest, parts * PART)
    fleet.registry.script(traffic)
    fleet.registry.script(hold)
    sources.put_large(fleet.registry, "team/app", "1", layer, small=small)
    return traffic, hold


def test_a_killed_workers_job_goes_on_elsewhere_and_no_finished_blob_is_fetched_again(fleet: Fleet) -> None:
    small = [images.layer(f"small-{number}", 200_000) for number in range(3)]
    layer = Synthetic(24 * MIB)
    traffic, hold = held_at(fleet, layer, 0, *small)

    def finished() -> bool:
        [task] = fleet.store.tasks(job.id, 1)
        return (
            sum(blob.state == "copied" for blob in fleet.store.blobs_of([task.id])[0]) == len(small) + 1
        )  # and the config

    with fleet.scheduler(), fleet.worker("one") as one, fleet.worker("other") as other:
        job = fleet.submit("team/app:1")
        eventually(finished, what="the small blobs are there")
        assert hold.reached.is_set()
        busy = next(worker for worker in (one, other) if worker.children())
        busy.kill_with_children()
        hold.let_go()
        ended = fleet.ended(job, within=60)
    assert (ended.state, ended.attempt) == ("succeeded", 2)
    assert [traffic.sent(one.digest) for one in small] == [len(one.content) for one in small]


@pytest.mark.versitygw
def test_of_a_gigabyte_whose_worker_died_the_next_one_fetches_only_what_was_not_hashed(
    make_fleet: MakeFleet, versitygw: VersityGateway
) -> None:
    fleet = make_fleet(versitygw, **BUDGET)
    layer = Synthetic(1024 * MIB)
    done = 90  # of 128 parts: 70 %
    traffic, hold = held_at(fleet, layer, done)
    with fleet.scheduler():
        with fleet.worker("first") as first:
            job = fleet.submit("team/app:1")
            fleet.wait_for_frontier(layer.digest, done)
            first.kill_with_children()
        killed = traffic.mark()
        hold.let_go()
        with fleet.worker("second"):
            ended = fleet.ended(job, within=100)
    assert (ended.state, ended.attempt) == ("succeeded", 2)
    assert traffic.sent(layer.digest, since=killed) <= layer.size - done * PART
    assert traffic.of(layer.digest, since=killed)[0].start == done * PART


def test_a_restart_of_redis_in_the_middle_of_a_copy_costs_no_byte(make_fleet: MakeFleet, rclone_s3: RcloneS3) -> None:
    fleet = make_fleet(rclone_s3, **BUDGET)
    layer = Synthetic(60 * MIB)
    traffic, hold = held_at(fleet, layer, 3)
    with fleet.scheduler(), fleet.worker():
        job = fleet.submit("team/app:1")
        fleet.wait_for_frontier(layer.digest, 3)
        fleet.valkey.kill()
        fleet.valkey.restart()
        hold.let_go()
        ended = fleet.ended(job, within=60)
    assert (ended.state, ended.attempt) == ("succeeded", 1)
    assert traffic.sent(layer.digest) == layer.size


@pytest.mark.versitygw
def test_a_restart_of_an_s3_that_keeps_its_uploads_costs_no_byte(
    make_fleet: MakeFleet, own_versitygw: VersityGateway
) -> None:
    fleet = make_fleet(own_versitygw, **BUDGET)
    layer = Synthetic(60 * MIB)
    traffic, hold = held_at(fleet, layer, 3)
    with fleet.scheduler(), fleet.worker():
        job = fleet.submit("team/app:1")
        fleet.wait_for_frontier(layer.digest, 3)
        own_versitygw.kill()
        own_versitygw.restart()
        hold.let_go()
        ended = fleet.ended(job, within=60)
    assert (ended.state, ended.attempt) == ("succeeded", 1)
    assert traffic.sent(layer.digest) == layer.size


def test_a_blob_whose_upload_s3_has_lost_starts_again_and_its_job_succeeds(
    make_fleet: MakeFleet, own_rclone: RcloneS3
) -> None:
    fleet = make_fleet(own_rclone, **BUDGET)
    layer = Synthetic(60 * MIB)
    traffic, hold = held_at(fleet, layer, 3)
    with fleet.scheduler(), fleet.worker():
        job = fleet.submit("team/app:1")
        fleet.wait_for_frontier(layer.digest, 3)
        own_rclone.kill()
        own_rclone.restart()
        before = traffic.mark()
        hold.let_go()
        ended = fleet.ended(job, within=60)
    assert (ended.state, ended.attempt) == ("succeeded", 1)
    repeated = traffic.sent(layer.digest, since=before) - layer.size
    assert 0 <= repeated <= IN_FLIGHT  # what was in flight before S3 reported that the upload is lost


@pytest.mark.versitygw
def test_a_blob_is_copied_again_if_a_killed_s3_did_not_complete_it_as_it_says(
    make_fleet: MakeFleet, own_versitygw: VersityGateway
) -> None:
    fleet = make_fleet(own_versitygw, **BUDGET)
    layer = Synthetic(512 * MIB)
    sources.put_large(fleet.registry, "team/app", "1", layer)

    def begun() -> list[Path]:
        """Return the uploads that the gateway is joining, or was when it was killed."""
        return list(own_versitygw.data.glob("*/.sgwtmp/multipart/*/*.inprogress"))

    with fleet.scheduler(), fleet.worker():
        job = fleet.submit("team/app:1")
        eventually(begun, every=0.001, what="the gateway is joining the blob")
        own_versitygw.kill()
        assert begun(), "the gateway was killed too late"
        own_versitygw.restart()
        ended = fleet.ended(job, within=90)
    assert (ended.state, ended.attempt) == ("succeeded", 1)
    assert fleet.bucket.size(layout.blob_key(layer.digest)) == layer.size


@pytest.mark.versitygw
def test_a_job_waits_without_a_worker_for_an_s3_that_is_away_and_goes_on_from_its_checkpoint(
    make_fleet: MakeFleet, own_versitygw: VersityGateway
) -> None:
    fleet = make_fleet(own_versitygw, **BUDGET)
    layer = Synthetic(60 * MIB)
    traffic, hold = held_at(fleet, layer, 3)

    def reason() -> str | None:
        waiting = fleet.store.job(job.id).waiting_for
        return waiting.reason if waiting else None

    with fleet.scheduler(), fleet.worker():
        job = fleet.submit("team/app:1")
        fleet.wait_for_frontier(layer.digest, 3)
        own_versitygw.kill()
        before = traffic.mark()
        hold.let_go()
        eventually(lambda: reason() == "storage_unavailable", what="the job says what it waits for")
        own_versitygw.restart()
        ended = fleet.ended(job, within=90)
    assert (ended.state, ended.attempt) == ("succeeded", 1)
    assert traffic.of(layer.digest, since=before)[0].start == 3 * PART
