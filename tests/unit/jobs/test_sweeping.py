"""Open uploads that nobody will go on with, on the S3 that lists them truthfully."""

from __future__ import annotations

from datetime import timedelta

import pytest

from mirror.coordination import keys
from mirror.coordination.checkpoints import Checkpoints
from mirror.coordination.lease import Leases
from mirror.coordination.redis import Redis
from mirror.jobs.sweeping import Sweeper
from mirror.oci.digest import Digest
from mirror.storage import layout
from mirror.storage.bucket import Bucket

DIGEST = Digest.of(b"a large blob")
KEY = layout.blob_key(DIGEST)
NOW = timedelta(seconds=-60)
"""Whatever the two clocks say."""


@pytest.fixture
def redis(redis_url: str) -> Redis:
    return Redis.connect(redis_url)


@pytest.fixture
def sweeper(versitygw_bucket: Bucket, redis: Redis) -> Sweeper:
    return Sweeper(versitygw_bucket, redis)


def still_open(sweeper: Sweeper) -> list[str]:
    return [upload.upload_id for upload in sweeper.bucket.open_uploads("")]


def test_an_upload_that_is_nobodys_is_aborted(sweeper: Sweeper) -> None:
    upload_id = sweeper.bucket.create_upload(KEY)
    sweeper.bucket.upload_part(KEY, upload_id, 1, b"part")
    assert sweeper.sweep(NOW) == 1
    assert still_open(sweeper) == []
    assert sweeper.sweep(NOW) == 0


def test_a_young_upload_is_left_alone(sweeper: Sweeper) -> None:
    upload_id = sweeper.bucket.create_upload(KEY)
    assert sweeper.sweep() == 0
    assert still_open(sweeper) == [upload_id]


def test_an_upload_under_a_living_lease_is_left_alone(sweeper: Sweeper, redis: Redis) -> None:
    Leases(redis).take(keys.blob_lease(DIGEST), 60)
    upload_id = sweeper.bucket.create_upload(KEY)
    assert sweeper.sweep(NOW) == 0
    assert still_open(sweeper) == [upload_id]


def test_of_two_uploads_the_one_that_the_checkpoint_names_is_left(sweeper: Sweeper, redis: Redis) -> None:
    lost, kept = sweeper.bucket.create_upload(KEY), sweeper.bucket.create_upload(KEY)
    lease = Leases(redis).take(keys.blob_lease(DIGEST), 60)
    assert lease is not None
    Checkpoints(redis).begin(lease, DIGEST, kept, 5)
    Leases(redis).end(lease)
    assert sweeper.sweep(NOW) == 1
    assert still_open(sweeper) == [kept] != [lost]


@pytest.mark.parametrize("key", ["docker/registry/v2/repositories/a/_uploads/1/data", "other/thing"])
def test_what_is_not_ours_is_never_touched(sweeper: Sweeper, key: str) -> None:
    upload_id = sweeper.bucket.create_upload(key)
    assert sweeper.sweep(NOW) == 0
    assert still_open(sweeper) == [upload_id]
