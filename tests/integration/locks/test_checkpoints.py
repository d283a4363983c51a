from __future__ import annotations

import pytest

from mirror.locks.checkpoints import KEPT_SECONDS, NEWS_SECONDS, Checkpoint, Checkpoints
from mirror.locks.lease import Lease, Leases
from mirror.oci.digest import Digest
from mirror.redis import keys
from mirror.redis.client import Redis

DIGEST = Digest.of(b"a large blob")
MIDSTATE = bytes(range(32))


@pytest.fixture
def checkpoints(redis: Redis) -> Checkpoints:
    return Checkpoints(redis)


@pytest.fixture
def lease(redis: Redis) -> Lease:
    taken = Leases(redis).take(keys.blob_lease(DIGEST), 60)
    assert taken is not None
    return taken


def test_a_blob_without_a_transfer_has_none(checkpoints: Checkpoints) -> None:
    assert checkpoints.load(DIGEST) is None
    assert checkpoints.open_upload(DIGEST) is None


def test_a_checkpoint_is_read_as_it_was_written(checkpoints: Checkpoints, lease: Lease) -> None:
    assert checkpoints.begin(lease, DIGEST, "an id", 5, holder="task-1")
    assert checkpoints.load(DIGEST) == Checkpoint("an id", 5)
    assert checkpoints.advance(lease, DIGEST, 2, MIDSTATE, {1: ("one", "a="), 2: ("two", "b=")})
    assert checkpoints.advance(lease, DIGEST, 3, MIDSTATE[::-1], {3: ('"three"', "c=")})
    parts = {1: ("one", "a="), 2: ("two", "b="), 3: ('"three"', "c=")}
    assert checkpoints.load(DIGEST) == Checkpoint("an id", 5, 3, MIDSTATE[::-1], parts)
    assert checkpoints.open_upload(DIGEST) == ("an id", "task-1")


def test_a_new_checkpoint_keeps_nothing_of_the_old_one(checkpoints: Checkpoints, lease: Lease) -> None:
    checkpoints.begin(lease, DIGEST, "first", 5, holder="task-1")
    checkpoints.advance(lease, DIGEST, 1, MIDSTATE, {1: ("one", "a=")})
    checkpoints.begin(lease, DIGEST, "second", 6, holder="task-1")
    assert checkpoints.load(DIGEST) == Checkpoint("second", 6)


def test_without_the_lease_nothing_is_written(checkpoints: Checkpoints, lease: Lease, redis: Redis) -> None:
    checkpoints.begin(lease, DIGEST, "ours", 5, holder="task-1")
    Leases(redis).end(lease)
    Leases(redis).take(lease.key, 60)
    assert not checkpoints.begin(lease, DIGEST, "late", 5, holder="task-1")
    assert not checkpoints.advance(lease, DIGEST, 1, MIDSTATE, {1: ("one", "a=")})
    checkpoints.forget(lease, DIGEST)
    assert checkpoints.load(DIGEST) == Checkpoint("ours", 5)


def test_what_redis_has_lost_is_not_half_rebuilt(checkpoints: Checkpoints, lease: Lease) -> None:
    assert checkpoints.advance(lease, DIGEST, 7, MIDSTATE, {7: ("seven", "a=")})
    assert checkpoints.load(DIGEST) is None


def test_a_checkpoint_can_be_deleted_and_expires_a_day_after_its_last_write(
    checkpoints: Checkpoints, lease: Lease, redis: Redis
) -> None:
    checkpoints.begin(lease, DIGEST, "an id", 5, holder="task-1")
    assert KEPT_SECONDS - 60 < redis.call("TTL", keys.blob_checkpoint(DIGEST)) <= KEPT_SECONDS
    checkpoints.forget(lease, DIGEST)
    assert checkpoints.load(DIGEST) is None


def test_a_finished_blob_is_announced_for_a_while_and_its_checkpoint_deleted(
    checkpoints: Checkpoints, lease: Lease, redis: Redis
) -> None:
    checkpoints.begin(lease, DIGEST, "an id", 5, holder="task-1")
    assert not checkpoints.is_announced(DIGEST)
    checkpoints.finish(lease, DIGEST)
    assert checkpoints.is_announced(DIGEST)
    assert checkpoints.load(DIGEST) is None
    assert 0 < redis.call("TTL", keys.blob_brought(DIGEST)) <= NEWS_SECONDS
