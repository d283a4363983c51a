"""Tags that already show what their source has, confirmed many at a time."""

from __future__ import annotations

import pytest

from mirror.catalog.tag_change import TagChange, TagUpdate
from mirror.errors import StorageRefused, StorageUnavailable
from mirror.locks.lease import Leases
from mirror.locks.tag_sequence import Publication, TagSequence
from mirror.oci.digest import Digest
from mirror.oci.local_image import LocalImage
from mirror.redis import keys
from tests.integration.catalog.support import mirror_image
from tests.support import images
from tests.support.harness import Harness


def take_numbers(harness: Harness, *tags: str) -> list[TagChange]:
    return harness.core.changes.take_numbers([(LocalImage("team/app", tag), f"job for {tag}") for tag in tags])


def confirmed(harness: Harness, *wanted: tuple[TagChange, Digest]) -> list[TagUpdate | None]:
    with harness.core.confirmer.lock_tags(wanted) as tags:
        return tags.confirm(wanted)


def three_tags(harness: Harness) -> tuple[Digest, list[str]]:
    image, tags = images.image(images.layer("a")), ["1", "2", "3"]
    for tag in tags:
        mirror_image(harness, image, LocalImage("team/app", tag))
    return image.digest, tags


def test_many_tags_are_confirmed_together_and_unlocked(harness: Harness) -> None:
    digest, tags = three_tags(harness)
    targets = [LocalImage("team/app", tag) for tag in [*tags, "4"]]
    listed = harness.core.confirmer.indexed([*targets, LocalImage("team/app", None, digest)])
    assert [found and found.digest for found in listed] == [digest] * 3 + [None, None]
    found = take_numbers(harness, *tags)
    assert confirmed(harness, *((change, digest) for change in found)) == [TagUpdate(digest)] * 3
    assert not any(harness.redis.call("EXISTS", keys.tag_lease("team/app", tag)) for tag in tags)
    sequence = TagSequence(harness.redis)
    assert [sequence.published("team/app", change.target.tag or "") for change in found] == [
        Publication(change.number, change.by) for change in found
    ]
    assert confirmed(harness) == []


def test_tags_that_differ_or_are_busy_are_not_confirmed(harness: Harness) -> None:
    digest, tags = three_tags(harness)
    lease = Leases(harness.redis).take(keys.tag_lease("team/app", "2"), 30)
    assert lease
    one, two, three = take_numbers(harness, *tags)
    other = Digest.of(b"another image")
    assert confirmed(harness, (one, digest), (two, digest), (three, other)) == [
        TagUpdate(digest),
        None,
        None,
    ]
    assert Leases(harness.redis).renew(lease)


def test_only_one_of_two_changes_of_a_tag_is_confirmed_at_a_time(harness: Harness) -> None:
    digest, _ = three_tags(harness)
    first, second = take_numbers(harness, "1", "1")
    assert confirmed(harness, (second, digest), (first, digest)) == [TagUpdate(digest), None]
    assert confirmed(harness, (first, digest)) == [TagUpdate(digest, superseded_by="job for 1")]


def test_tags_that_s3_read_too_slowly_are_not_confirmed(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their leases may have expired, and another process may have moved the tags."""
    digest, tags = three_tags(harness)
    before = [TagSequence(harness.redis).published("team/app", tag) for tag in tags]
    monkeypatch.setattr("mirror.catalog.tag_change.LEASE_SECONDS", 0.001)
    assert confirmed(harness, *((change, digest) for change in take_numbers(harness, *tags))) == [None] * 3
    assert [TagSequence(harness.redis).published("team/app", tag) for tag in tags] == before


def test_a_tag_whose_lease_was_lost_is_not_confirmed(harness: Harness) -> None:
    """Redis was restarted. Another process has the lease now, and may have moved the tag."""
    digest, tags = three_tags(harness)
    wanted = [(change, digest) for change in take_numbers(harness, *tags)]
    with harness.core.confirmer.lock_tags(wanted) as held:
        harness.redis.call("SET", keys.tag_lease("team/app", "2"), "somebody else")
        assert held.confirm(wanted) == [TagUpdate(digest), None, TagUpdate(digest)]
    assert [harness.redis.call("EXISTS", keys.tag_lease("team/app", tag)) for tag in tags] == [0, 1, 0]


def test_tags_that_s3_failed_to_read_are_unlocked(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    digest, tags = three_tags(harness)
    found = take_numbers(harness, *tags)
    monkeypatch.setattr(harness.bucket, "name", "a-bucket-that-is-not-there")
    with pytest.raises((StorageRefused, StorageUnavailable)):
        confirmed(harness, *((change, digest) for change in found))
    assert not any(harness.redis.call("EXISTS", keys.tag_lease("team/app", tag)) for tag in tags)
