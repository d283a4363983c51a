"""A bucket without space: its jobs wait without asking their sources, and continue by themselves."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from mirror.records.job import Job
from mirror.redis import keys
from mirror.settings import Settings
from mirror.storage.bucket import Bucket
from tests.conftest import SettingsForServer
from tests.support import images
from tests.support.harness import Harness
from tests.support.servers import RcloneS3, S3Server, VersityGateway
from tests.support.servers.process import in_ci
from tests.support.servers.small_disk import SmallDisk

MIB = 2**20


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with SmallDisk(tmp_path / "small" / "data") as made:
        yield made


@pytest.fixture(params=[RcloneS3, pytest.param(VersityGateway, marks=pytest.mark.versitygw)])
def server(request: pytest.FixtureRequest, disk: SmallDisk) -> Iterator[S3Server]:
    """An S3 server whose objects are on the small disk. Its metadata is elsewhere."""
    disk.folder.joinpath("objects").mkdir()
    made = request.param(disk.folder.parent, data=disk.folder / "objects")
    with made as server:
        yield server


@pytest.fixture
def s3_settings(server: S3Server, settings_for_server: SettingsForServer) -> Settings:
    return settings_for_server(server, "")


@pytest.fixture(params=["known", "unknown"])
def bucket(request: pytest.FixtureRequest, s3_settings: Settings, server: S3Server) -> Iterator[Bucket]:
    """One whose disk the worker can look at, as the embedded S3's, and one whose disk is somewhere."""
    folder = server.data if request.param == "known" else None
    made = Bucket.from_settings(replace(s3_settings, s3_sync_folder=folder))
    yield made
    made.close()


def asked(harness: Harness, part: str = "/v2/") -> int:
    return len(harness.registry.log(path=part))


def next_round(harness: Harness, job: Job) -> Job:
    """The job after its wait has ended, and the breaker's too, and it was taken up."""
    [task] = harness.jobs.tasks(job.id, 1)
    harness.redis.call("ZADD", keys.TASKS_PARKED, "XX", 1, task.id)
    if harness.redis.call("EXISTS", keys.STORAGE_TROUBLE):
        harness.redis.call("HSET", keys.STORAGE_TROUBLE, "next", 1)
    harness.reconcile()
    return harness.run_tasks(job)


def test_a_job_waits_for_space_without_reading_its_source_again_and_ends_by_itself(
    harness: Harness, bucket: Bucket, server: S3Server, disk: SmallDisk
) -> None:
    image = images.image(images.layer("a", 600_000), images.layer("b", 700_000))
    harness.registry.put(image, "team/app", "1")
    disk.fill(server)
    job = harness.mirror("team/app:1")
    assert job.state == "queued"
    assert job.waiting_for is not None
    if disk.is_real and (bucket.disk.is_known or isinstance(server, VersityGateway)):  # rclone itself never says so
        assert job.waiting_for.reason == "storage_full"
        assert "cannot write: its disk is full" in str(job.waiting_for.message)
        assert ("0 bytes are free" in str(job.waiting_for.message)) == (bucket.disk.is_known)
    else:
        assert job.waiting_for.reason == "storage_unavailable"
    fetched = asked(harness, "/blobs/")
    most = 0 if disk.is_real and bucket.disk.is_known else 3  # each of the three blobs once
    assert fetched <= most
    before = asked(harness)
    for _ in range(5):
        job = next_round(harness, job)
        assert (job.state, job.attempt) == ("queued", 1)
    assert asked(harness) == before
    disk.clear(server)
    job = next_round(harness, job)
    assert (job.state, job.attempt, job.digest) == ("succeeded", 1, str(image.digest))
    assert harness.redis.call("EXISTS", keys.STORAGE_TROUBLE) == 0
    assert bucket.uploads.list_open("") == []


@pytest.mark.parametrize("bucket", ["known"], indirect=True)
def test_an_image_that_does_not_fit_keeps_no_smaller_one_waiting(
    harness: Harness, bucket: Bucket, server: S3Server, disk: SmallDisk
) -> None:
    if not disk.is_real:
        (pytest.fail if in_ci() else pytest.skip)("only root can mount a disk that has room for the small image alone")
    harness.registry.put(images.image(images.layer("large", 12 * MIB)), "team/large", "1")
    harness.registry.put(images.image(images.layer("small", 100_000)), "team/small", "1")
    disk.fill(server, leave=6 * MIB)
    large = harness.mirror("team/large:1")
    assert large.waiting_for is not None
    assert large.waiting_for.reason == "storage_full"
    assert asked(harness, "/blobs/") == 0
    assert harness.mirror("team/small:1").state == "succeeded"
    before = asked(harness)
    assert next_round(harness, large).state == "queued"
    assert asked(harness) == before
    disk.clear(server)
    assert next_round(harness, large).state == "succeeded"
