"""Open uploads that no task will complete, on the S3 that lists them truthfully."""

from __future__ import annotations

from datetime import timedelta

import pytest

from mirror.locks.checkpoints import Checkpoints
from mirror.locks.lease import Leases
from mirror.oci.digest import Digest
from mirror.records.claims import Claim, Outcome
from mirror.records.spec import CopySpec
from mirror.records.task import WaitingFor
from mirror.redis import keys
from mirror.redis.client import Redis
from mirror.stewardship.upload_purge import UploadPurge
from mirror.storage import layout
from mirror.storage.bucket import Bucket
from tests.support.records import Records
from tests.support.stopped_clock import StoppedClock

DIGEST = Digest.of(b"a large blob")
KEY = layout.blob_key(DIGEST)
NOW = timedelta(seconds=-60)
"""Whatever the two clocks say."""


@pytest.fixture
def purge(versitygw_bucket: Bucket, redis: Redis) -> UploadPurge:
    return UploadPurge(versitygw_bucket, Leases(redis), Checkpoints(redis), Records.on(redis).jobs)


def still_open(purge: UploadPurge) -> list[str]:
    return [upload.upload_id for upload in purge.bucket.uploads.list_open("")]


def test_an_upload_that_no_task_needs_is_aborted(purge: UploadPurge) -> None:
    upload_id = purge.bucket.uploads.create(KEY)
    purge.bucket.uploads.upload_part(KEY, upload_id, 1, b"part")
    assert purge.purge(NOW) == 1
    assert still_open(purge) == []
    assert purge.purge(NOW) == 0


def test_a_young_upload_is_left_alone(purge: UploadPurge) -> None:
    upload_id = purge.bucket.uploads.create(KEY)
    assert purge.purge() == 0
    assert still_open(purge) == [upload_id]


def test_a_young_upload_is_left_alone_while_the_clock_of_redis_is_ahead(purge: UploadPurge, redis: Redis) -> None:
    StoppedClock(redis).advance(365 * 86_400)
    upload_id = purge.bucket.uploads.create(KEY)
    assert purge.purge() == 0
    assert still_open(purge) == [upload_id]


def test_an_upload_under_a_living_lease_is_left_alone(purge: UploadPurge, redis: Redis) -> None:
    Leases(redis).take(keys.blob_lease(DIGEST), 60)
    upload_id = purge.bucket.uploads.create(KEY)
    assert purge.purge(NOW) == 0
    assert still_open(purge) == [upload_id]


def begun(redis: Redis, upload_id: str, claim: Claim) -> None:
    """A checkpoint of the claim's worker, which has died since."""
    lease = Leases(redis).take(keys.blob_lease(DIGEST), 60)
    assert lease is not None
    Checkpoints(redis).begin(lease, DIGEST, upload_id, 5, holder=claim.holder)
    Leases(redis).end(lease)


@pytest.fixture
def claim(redis: Redis) -> Claim:
    store = Records.on(redis)
    _, (task,), _ = store.jobs.submit([CopySpec.parse("docker.io/library/redis:7", "redis:7")])
    claim = store.claim(task.id, task.fence)
    assert claim is not None
    return claim


def test_of_two_uploads_the_one_that_an_unfinished_tasks_checkpoint_names_is_left(
    purge: UploadPurge, redis: Redis, claim: Claim
) -> None:
    lost, kept = purge.bucket.uploads.create(KEY), purge.bucket.uploads.create(KEY)
    begun(redis, kept, claim)
    assert purge.purge(NOW) == 1
    assert still_open(purge) == [kept] != [lost]


def test_a_parked_tasks_upload_is_left(purge: UploadPurge, redis: Redis, claim: Claim) -> None:
    upload_id = purge.bucket.uploads.create(KEY)
    begun(redis, upload_id, claim)
    assert Records.on(redis).claims.release(claim, wait=60, waiting_for=WaitingFor("quota", "later", None))
    assert purge.purge(NOW) == 0
    assert still_open(purge) == [upload_id]


@pytest.mark.parametrize("state", ["succeeded", "failed", "canceled"])
def test_an_upload_whose_task_has_ended_without_it_is_aborted_with_its_checkpoint(
    purge: UploadPurge, redis: Redis, claim: Claim, state: str
) -> None:
    begun(redis, purge.bucket.uploads.create(KEY), claim)
    assert Records.on(redis).settle(claim, state, Outcome())
    assert purge.purge(NOW) == 1
    assert still_open(purge) == []
    assert Checkpoints(redis).load(DIGEST) is None
    assert not redis.call("EXISTS", keys.blob_lease(DIGEST))


def test_an_upload_that_another_task_has_gone_on_with_is_that_tasks(
    purge: UploadPurge, redis: Redis, claim: Claim
) -> None:
    store = Records.on(redis)
    _, (task,), _ = store.jobs.submit([CopySpec.parse("docker.io/library/redis:8", "redis:8")])
    later = store.claim(task.id, task.fence)
    lease = Leases(redis).take(keys.blob_lease(DIGEST), 60)
    assert later is not None
    assert lease is not None
    upload_id = purge.bucket.uploads.create(KEY)
    Checkpoints(redis).begin(lease, DIGEST, upload_id, 5, holder=claim.holder)
    assert Checkpoints(redis).take_over(lease, DIGEST, holder=later.holder)
    Leases(redis).end(lease)
    store.settle(claim, "succeeded", Outcome())
    assert purge.purge(NOW) == 0
    assert still_open(purge) == [upload_id]


@pytest.mark.parametrize("key", ["docker/registry/v2/repositories/a/_uploads/1/data", "other/thing"])
def test_what_is_not_ours_is_never_touched(purge: UploadPurge, key: str) -> None:
    upload_id = purge.bucket.uploads.create(key)
    assert purge.purge(NOW) == 0
    assert still_open(purge) == [upload_id]
