from __future__ import annotations

from datetime import UTC, datetime

import pytest

from mirror.copying.naming import TargetNamer
from mirror.errors import AddressNotAllowed, InvalidReference, JobTooLarge, NameTooLong, TargetRepeated, TargetReserved
from mirror.jobs.submit import Submitter
from mirror.oci.local_image import LocalImage
from mirror.oci.reference import Reference
from mirror.queue import TaskQueue
from mirror.records.job_request import MOST_IMAGES, ImageRequest
from mirror.records.rules import CANONICAL_TARGET, TargetRule
from mirror.records.spec import CopySpec
from mirror.redis.client import open_client
from tests.support.harness import Harness
from tests.support.servers import RcloneS3

HOST = "mirror.corp:8080"
NOW = datetime(2026, 11, 28, tzinfo=UTC)


@pytest.fixture
def s3_server(rclone_s3: RcloneS3) -> RcloneS3:
    """These tests are about records in Redis. Any S3 server will do."""
    return rclone_s3


def named(source: Reference, target: str | None, host: str) -> LocalImage:
    return TargetNamer(host, NOW).target(TargetRule(target) if target else CANONICAL_TARGET, source)


@pytest.mark.parametrize(
    ("source", "target", "expected"),
    [
        ("redis:7", None, "docker.io/library/redis:7"),
        ("127.0.0.1:5001/team/app:1.0", None, "127.0.0.1_5001/team/app:1.0"),
        ("redis:7", "team/redis:stable", "team/redis:stable"),
        ("redis:7", "team/redis", "team/redis:7"),
        ("redis@sha256:" + "a" * 64, None, "docker.io/library/redis@sha256:" + "a" * 64),
        ("redis@sha256:" + "a" * 64, "team/redis", "team/redis@sha256:" + "a" * 64),
        ("redis@sha256:" + "a" * 64, "team/redis:pinned", "team/redis:pinned"),
        ("redis:7@sha256:" + "a" * 64, None, "docker.io/library/redis:7"),
        ("gcr.io/project/app:1", "gcr.io/elsewhere/app:2", "gcr.io/elsewhere/app:2"),
        ("gcr.io/project/app:1", "redis.internal:1", "redis.internal:1"),
    ],
)
def test_the_target_follows_from_the_source_and_the_wish(source: str, target: str | None, expected: str) -> None:
    assert str(named(Reference.parse(source), target, HOST)) == expected


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("gcr.io/project/redis:7", "docker.io/library/redis:7"),
        ("redis:7", "gcr.io/project/redis"),
        ("redis:7", "localhost/redis"),
        ("redis:7", "registry_5000/redis"),
        ("127.0.0.1:5001/a/b", "127.0.0.1_5002/a/b"),
    ],
)
def test_a_name_under_a_registry_takes_only_that_registrys_images(source: str, target: str) -> None:
    with pytest.raises(TargetReserved):
        named(Reference.parse(source), target, HOST)


def test_a_target_by_digest_is_refused() -> None:
    with pytest.raises(InvalidReference, match="never by a digest"):
        named(Reference.parse("redis"), "team/redis@sha256:" + "a" * 64, HOST)


def test_a_name_that_clients_cannot_take_is_refused() -> None:
    with pytest.raises(NameTooLong):
        named(Reference.parse("redis"), "team/" + "a" * 240, HOST)


def test_an_accepted_job_has_a_record_and_a_queue_entry(harness: Harness) -> None:
    job = harness.submit("team/app:1.0")
    [task] = harness.jobs.tasks(job.id, 5)
    assert harness.jobs.job(job.id).state == "queued"
    assert harness.core.queue.holds(task.id, 0)


def test_nothing_is_asked_of_the_network_and_nothing_stored_for_what_is_refused(harness: Harness) -> None:
    with pytest.raises(TargetReserved):
        harness.submit("team/app:1.0", "docker.io/library/app")
    assert harness.registry.log() == []
    assert harness.jobs.page(limit=5, before=None, state=None, source=None) == ([], None)


def test_a_job_of_several_images_has_a_task_for_each_in_their_order(harness: Harness) -> None:
    wanted = [("team/app:1", None), ("team/app:2", "team/two"), ("team/tool:1", "team/tool:new")]
    job = harness.submit_all(*wanted)
    tasks = harness.jobs.tasks(job.id, 5)
    specs = [task.spec for task in tasks if isinstance(task.spec, CopySpec)]
    assert [spec.source.repository for spec in specs] == ["team/app", "team/app", "team/tool"]
    assert [spec.source.tag for spec in specs] == ["1", "2", "1"]
    assert [str(spec.target) for spec in specs][1:] == ["team/two:2", "team/tool:new"]
    assert (job.spec, job.images.total) == (None, 3)
    assert harness.jobs.job(job.id) == job
    assert all(harness.core.queue.holds(task.id, 0) for task in tasks)


def test_images_that_want_the_same_place_are_refused_together(harness: Harness) -> None:
    with pytest.raises(TargetRepeated, match="team/app:1"):
        harness.submit_all(("team/app:1", "team/app"), ("team/tool:1", None), ("elsewhere/app:7", "team/app:1"))
    assert harness.jobs.page(limit=5, before=None, state=None, source=None) == ([], None)


@pytest.mark.parametrize("count", [0, MOST_IMAGES + 1])
def test_a_job_has_between_one_and_ten_thousand_images(harness: Harness, count: int) -> None:
    with pytest.raises(ValueError, match="1 to 10000 images"):
        harness.submit_all(*((f"team/app:{number}", None) for number in range(count)))


@pytest.mark.parametrize("host", ["169.254.169.254", "10.0.0.1:5000"])
def test_an_address_that_no_worker_may_connect_to_is_refused_at_once(harness: Harness, host: str) -> None:
    with pytest.raises(AddressNotAllowed):
        harness.core.submitter.submit([ImageRequest(f"{host}/latest/meta-data")])
    assert harness.jobs.page(limit=5, before=None, state=None, source=None) == ([], None)


def test_a_job_whose_queue_entry_cannot_be_put_is_accepted_all_the_same(harness: Harness) -> None:
    """Redis goes away before the entry is added. The reconciler adds it later."""
    away = open_client("redis://127.0.0.1:1/0", retries=0, decode_responses=False)
    submitter = Submitter(harness.jobs, TaskQueue(away), harness.core.settings)
    job, _ = submitter.submit([ImageRequest(f"{harness.registry.host}/team/app:1")])
    assert harness.jobs.job(job.id).state == "queued"
    away.close()


def test_many_images_with_many_targets_are_refused_before_anything_is_stored(harness: Harness) -> None:
    rules = [TargetRule(f"{place}/{{name}}:{{tag}}") for place in "abcdefgh"]
    images = [ImageRequest(f"{harness.registry.host}/team/app{n}:1", rules) for n in range(1_251)]
    with pytest.raises(JobTooLarge, match="10008"):
        harness.core.submitter.submit(images)
    assert harness.jobs.page(limit=5, before=None, state=None, source=None) == ([], None)
