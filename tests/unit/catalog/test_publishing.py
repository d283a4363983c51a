"""Publish, re-tag, delete and rebuild, on real images in a real bucket."""

from __future__ import annotations

import pytest

from mirror.catalog.rebuild import Rebuilder
from mirror.catalog.tag_change import TagChange, TagUpdate
from mirror.errors import (
    BlobBeingDeleted,
    ImageNotHeld,
    PreconditionFailed,
    StorageDamaged,
    StorageRefused,
    StorageUnavailable,
    TagBusy,
)
from mirror.locks.lease import Leases
from mirror.locks.pins import Pins
from mirror.locks.tag_sequence import Publication, TagSequence
from mirror.oci.digest import Digest
from mirror.oci.local_image import LocalImage
from mirror.redis import keys
from mirror.storage import layout
from tests import images
from tests.harness import Harness, mark_built

APP = LocalImage("team/app", "1")


def anything(_: Digest | None) -> bool:
    return True


def mirrored(harness: Harness, image: images.TestImage, target: LocalImage = APP) -> None:
    harness.registry.put(image, "source/app", "1")
    job = harness.mirror("source/app:1", str(target))
    assert job.state == "succeeded", job.error


def test_a_retag_moves_no_bytes_and_answers_at_once(harness: Harness) -> None:
    image = images.three_platforms("x")
    mirrored(harness, image)
    blobs = [key for key in harness.stored() if key.startswith("docker/registry/v2/blobs/")]
    asked = len(harness.registry.log())
    published = harness.publisher.retag(LocalImage("prod/app", "live"), APP, allowed=anything)
    assert published.created
    assert harness.reader.digest(LocalImage("prod/app", "live")) == image.digest
    held = harness.reader.image(LocalImage("prod/app", "live"))
    assert len(held.manifests) == 4
    assert all(harness.links.has_layer("prod/app", blob.digest) for blob in held.blobs)
    assert [key for key in harness.stored() if key.startswith("docker/registry/v2/blobs/")] == blobs
    assert len(harness.registry.log()) == asked
    assert not harness.publisher.retag(LocalImage("prod/app", "live"), APP, allowed=anything).created


def test_a_retag_of_nothing_changes_nothing(harness: Harness) -> None:
    with pytest.raises(ImageNotHeld):
        harness.publisher.retag(LocalImage("prod/app", "live"), APP, allowed=anything)
    assert harness.stored() == []


def test_a_refused_precondition_leaves_the_target_without_a_trace(harness: Harness) -> None:
    mirrored(harness, images.image(images.layer("a")))
    before = harness.stored()
    with pytest.raises(PreconditionFailed):
        harness.publisher.retag(LocalImage("prod/app", "live"), APP, allowed=lambda current: current is not None)
    assert harness.stored() == before


def test_an_image_that_the_collector_is_deleting_is_not_retagged(harness: Harness) -> None:
    layer = images.layer("a")
    mirrored(harness, images.image(layer))
    assert Pins(harness.redis).begin_delete(layer.digest, 60)
    with pytest.raises(BlobBeingDeleted):
        harness.publisher.retag(LocalImage("prod/app", "live"), APP, allowed=anything)


def test_a_delete_takes_the_tag_and_nothing_that_another_tag_needs(harness: Harness) -> None:
    image = images.image(images.layer("a"))
    mirrored(harness, image)
    harness.publisher.retag(LocalImage("team/app", "2"), APP, allowed=anything)
    harness.publisher.delete(APP, allowed=anything)
    with pytest.raises(ImageNotHeld):
        harness.reader.digest(APP)
    assert harness.reader.image(LocalImage("team/app", "2")).digest == image.digest
    mark_built(harness.index)
    assert harness.index.tags("team/app", limit=5) == (["2"], None)
    assert not [key for key in harness.stored() if key.startswith(layout.tag_prefix("team/app", "1"))]
    with pytest.raises(ImageNotHeld):
        harness.publisher.delete(APP, allowed=anything)


def test_a_delete_heeds_its_precondition(harness: Harness) -> None:
    image = images.image(images.layer("a"))
    mirrored(harness, image)
    with pytest.raises(PreconditionFailed, match=str(image.digest)):
        harness.publisher.delete(APP, allowed=lambda current: current != image.digest)
    assert harness.reader.digest(APP) == image.digest


def test_a_tag_moves_with_its_history_kept(harness: Harness) -> None:
    first, second = images.image(images.layer("a")), images.image(images.layer("b"))
    mirrored(harness, first)
    mirrored(harness, second)
    assert harness.reader.digest(APP) == second.digest
    assert set(harness.links.history("team/app", "1")) == {first.digest, second.digest}


def test_a_tag_whose_lease_others_hold_is_busy(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    mirrored(harness, images.image(images.layer("a")))
    monkeypatch.setattr("mirror.catalog.publish._PATIENCE", 0.1)
    assert Leases(harness.redis).take(keys.tag_lease("team/app", "1"), 30)
    with pytest.raises(TagBusy):
        harness.publisher.delete(APP, allowed=anything)


def test_a_lost_index_is_rebuilt_from_the_bucket(harness: Harness) -> None:
    mirrored(harness, images.three_platforms("x"))
    mirrored(harness, images.image(images.layer("b", 5000)), LocalImage("team/app", "2"))
    mark_built(harness.index)
    before = harness.index.images(limit=10, wanted=lambda _: True), harness.index.repositories(limit=10)
    harness.redis.call("FLUSHALL")
    assert not harness.index.is_built()
    assert Rebuilder(harness.bucket, harness.redis, harness.publisher).rebuild(lambda: True)
    assert (harness.index.images(limit=10, wanted=lambda _: True), harness.index.repositories(limit=10)) == before


def test_a_rebuild_forgets_a_tag_that_the_bucket_does_not_have(harness: Harness) -> None:
    mirrored(harness, images.image(images.layer("a")))
    harness.links.delete_tag("team/app", "1")
    assert Rebuilder(harness.bucket, harness.redis, harness.publisher).rebuild(lambda: True)
    assert harness.index.repositories(limit=10) == ([], None)


def test_one_damaged_tag_does_not_keep_the_others_from_being_listed(harness: Harness) -> None:
    mirrored(harness, images.image(images.layer("a")))
    mirrored(harness, images.image(images.layer("b")), LocalImage("team/app", "2"))
    harness.bucket.put(layout.tag_current_key("team/app", "1"), b"no digest")
    harness.redis.call("FLUSHALL")
    assert Rebuilder(harness.bucket, harness.redis, harness.publisher).rebuild(lambda: True)
    assert harness.index.tags("team/app", limit=5) == (["2"], None)


def test_a_manifest_that_was_changed_in_the_bucket_is_not_served(harness: Harness) -> None:
    image = images.image(images.layer("a"))
    mirrored(harness, image)
    harness.bucket.put(layout.blob_key(image.digest), image.body + b" ")
    with pytest.raises(StorageDamaged):
        harness.reader.manifest(APP)


def tickets(harness: Harness, *tags: str) -> list[TagChange]:
    return harness.publisher.tickets([(LocalImage("team/app", tag), f"job for {tag}") for tag in tags])


def confirmed(harness: Harness, *wanted: tuple[TagChange, Digest]) -> list[TagUpdate | None]:
    with harness.publisher.holding_tags(wanted) as tags:
        return tags.confirm(wanted)


def three_tags(harness: Harness) -> tuple[Digest, list[str]]:
    image, tags = images.image(images.layer("a")), ["1", "2", "3"]
    for tag in tags:
        mirrored(harness, image, LocalImage("team/app", tag))
    return image.digest, tags


def test_many_tags_are_confirmed_together_and_their_leases_given_back(harness: Harness) -> None:
    digest, tags = three_tags(harness)
    targets = [LocalImage("team/app", tag) for tag in [*tags, "4"]]
    listed = harness.publisher.listed([*targets, LocalImage("team/app", None, digest)])
    assert [found and found.digest for found in listed] == [digest] * 3 + [None, None]
    found = tickets(harness, *tags)
    assert confirmed(harness, *((t, digest) for t in found)) == [TagUpdate(digest)] * 3
    assert not any(harness.redis.call("EXISTS", keys.tag_lease("team/app", tag)) for tag in tags)
    sequence = TagSequence(harness.redis)
    assert [sequence.published("team/app", t.target.tag or "") for t in found] == [
        Publication(t.number, t.by) for t in found
    ]
    assert confirmed(harness) == []


def test_of_many_tags_those_that_show_something_else_or_are_busy_are_not_confirmed(harness: Harness) -> None:
    digest, tags = three_tags(harness)
    lease = Leases(harness.redis).take(keys.tag_lease("team/app", "2"), 30)
    assert lease
    one, two, three = tickets(harness, *tags)
    other = Digest.of(b"another image")
    assert confirmed(harness, (one, digest), (two, digest), (three, other)) == [
        TagUpdate(digest),
        None,
        None,
    ]
    assert Leases(harness.redis).renew(lease)


def test_of_two_changes_of_one_tag_one_is_confirmed_at_a_time(harness: Harness) -> None:
    digest, _ = three_tags(harness)
    first, second = tickets(harness, "1", "1")
    assert confirmed(harness, (second, digest), (first, digest)) == [TagUpdate(digest), None]
    assert confirmed(harness, (first, digest)) == [TagUpdate(digest, superseded_by="job for 1")]


def test_tags_that_s3_took_too_long_to_show_are_not_confirmed(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their leases may have ended, and somebody else may have moved them."""
    digest, tags = three_tags(harness)
    before = [TagSequence(harness.redis).published("team/app", tag) for tag in tags]
    monkeypatch.setattr("mirror.catalog.publish.LEASE_SECONDS", 0.001)
    assert confirmed(harness, *((t, digest) for t in tickets(harness, *tags))) == [None] * 3
    assert [TagSequence(harness.redis).published("team/app", tag) for tag in tags] == before


def test_a_tag_whose_lease_was_lost_since_is_not_confirmed(harness: Harness) -> None:
    """As by a restart of Redis: somebody else has it now, and may have moved the tag."""
    digest, tags = three_tags(harness)
    wanted = [(ticket, digest) for ticket in tickets(harness, *tags)]
    with harness.publisher.holding_tags(wanted) as held:
        harness.redis.call("SET", keys.tag_lease("team/app", "2"), "somebody else")
        assert held.confirm(wanted) == [TagUpdate(digest), None, TagUpdate(digest)]
    assert [harness.redis.call("EXISTS", keys.tag_lease("team/app", tag)) for tag in tags] == [0, 1, 0]


def test_the_leases_of_tags_that_s3_would_not_show_are_given_back(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest, tags = three_tags(harness)
    found = tickets(harness, *tags)
    monkeypatch.setattr(harness.bucket, "name", "a-bucket-that-is-not-there")
    with pytest.raises((StorageRefused, StorageUnavailable)):
        confirmed(harness, *((t, digest) for t in found))
    assert not any(harness.redis.call("EXISTS", keys.tag_lease("team/app", tag)) for tag in tags)
