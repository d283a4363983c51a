"""What tags show, in Redis: it is never older than the bucket, also when Redis loses its data in between."""

from __future__ import annotations

import pytest

from mirror.catalog.current_tags import CurrentTags, KnownTag
from mirror.locks.lease import Lease, Leases
from mirror.oci.digest import Digest
from mirror.redis import keys
from mirror.redis.client import Redis

OLD, NEW = Digest("sha256", "a" * 64), Digest("sha256", "b" * 64)
APP = ("team/app", "1")


@pytest.fixture
def tags(redis: Redis) -> CurrentTags:
    return CurrentTags(redis)


@pytest.fixture
def lease(redis: Redis) -> Lease:
    """The lease of the tag."""
    return taken(redis)


def taken(redis: Redis) -> Lease:
    found = Leases(redis).take(keys.tag_lease(*APP), 30)
    assert found is not None
    return found


def read(tags: CurrentTags) -> KnownTag:
    [known] = tags.read([APP[0]], APP[1])
    return known


def change(tags: CurrentTags, lease: Lease, digest: Digest | None) -> None:
    assert tags.begin_change(lease, *APP)
    assert tags.end_change(lease, *APP, digest)


def keep_what_the_bucket_shows(tags: CurrentTags, digest: Digest) -> None:
    """Read a tag as pulls do. After Redis lost its data, the first of them keeps nothing."""
    for _ in range(2):
        tags.keep(read(tags), *APP, digest)


def test_a_tag_that_no_process_changes_is_read_from_the_bucket_once(tags: CurrentTags) -> None:
    assert read(tags).digest is None
    keep_what_the_bucket_shows(tags, OLD)
    assert read(tags).digest == OLD


def test_readers_ask_the_bucket_during_a_change_and_see_its_result_after_it(tags: CurrentTags, lease: Lease) -> None:
    keep_what_the_bucket_shows(tags, OLD)
    assert tags.begin_change(lease, *APP)
    during = read(tags)
    assert (during.digest, during.is_changing) == (None, True)
    assert tags.end_change(lease, *APP, NEW)
    assert read(tags).digest == NEW
    change(tags, lease, None)
    assert read(tags).is_absent


def test_a_slow_reader_does_not_bring_an_old_digest_back(tags: CurrentTags, lease: Lease) -> None:
    before = read(tags)
    change(tags, lease, NEW)
    tags.keep(before, *APP, OLD)
    assert read(tags).digest == NEW


def test_a_slow_reader_does_not_bring_an_old_digest_back_after_redis_was_emptied(
    tags: CurrentTags, lease: Lease, redis: Redis
) -> None:
    """Nothing is left that tells of the change. The server has not restarted."""
    keep_what_the_bucket_shows(tags, OLD)
    redis.call("FLUSHALL")
    keep_what_the_bucket_shows(tags, OLD)
    redis.call("HDEL", keys.current_tags(read(tags).life, APP[0]), APP[1])
    before = read(tags)
    change(tags, taken(redis), NEW)
    redis.call("FLUSHALL")
    tags.keep(before, *APP, OLD)
    assert read(tags).digest is None


def test_a_reader_that_came_before_everything_keeps_nothing_after_redis_was_emptied(
    tags: CurrentTags, lease: Lease, redis: Redis
) -> None:
    before = read(tags)
    change(tags, lease, NEW)
    redis.call("FLUSHALL")
    tags.keep(before, *APP, OLD)
    assert read(tags).digest is None


def test_a_change_that_lost_its_lease_lets_readers_ask_the_bucket(
    tags: CurrentTags, lease: Lease, redis: Redis
) -> None:
    """Its PUT may have moved the tag. What a reader kept before that would be old for a week."""
    assert tags.begin_change(lease, *APP)
    redis.call("FLUSHALL")
    keep_what_the_bucket_shows(tags, OLD)
    assert read(tags).digest == OLD
    assert not tags.end_change(lease, *APP, NEW)
    assert read(tags).is_changing


def test_a_change_whose_lease_another_process_has_taken_does_not_begin(
    tags: CurrentTags, lease: Lease, redis: Redis
) -> None:
    keep_what_the_bucket_shows(tags, OLD)
    Leases(redis).end(lease)
    taken(redis)
    assert not tags.begin_change(lease, *APP)
    assert read(tags).digest == OLD
