"""Publish, re-tag, delete and rebuild, on real images in a real bucket."""

from __future__ import annotations

import pytest

from mirror.catalog.rebuilding import Rebuilder
from mirror.catalog.tickets import Published, Ticket
from mirror.coordination import keys
from mirror.coordination.lease import Leases
from mirror.coordination.pins import Pins
from mirror.coordination.sequence import Publication, TagSequence
from mirror.errors import (
    BlobBeingDeleted,
    ImageNotHeld,
    PreconditionFailed,
    StorageDamaged,
    StorageRefused,
    StorageUnavailable,
    TagBusy,
)
from mirror.oci.digest import Digest
from mirror.oci.local_image import LocalImage
from mirror.storage import layout
from tests import images
from tests.plant import Plant, mark_built

APP = LocalImage("team/app", "1")


def anything(_: Digest | None) -> bool:
    return True


def mirrored(plant: Plant, image: images.TestImage, target: LocalImage = APP) -> None:
    plant.registry.put(image, "source/app", "1")
    job = plant.mirror("source/app:1", str(target))
    assert job.state == "succeeded", job.error


def test_a_retag_moves_no_bytes_and_answers_at_once(plant: Plant) -> None:
    image = images.three_platforms("x")
    mirrored(plant, image)
    blobs = [key for key in plant.stored() if key.startswith("docker/registry/v2/blobs/")]
    asked = len(plant.registry.log())
    published = plant.publisher.retag(LocalImage("prod/app", "live"), APP, allowed=anything)
    assert published.created
    assert plant.reader.digest(LocalImage("prod/app", "live")) == image.digest
    held = plant.reader.image(LocalImage("prod/app", "live"))
    assert len(held.manifests) == 4
    assert all(plant.links.has_layer("prod/app", blob.digest) for blob in held.blobs)
    assert [key for key in plant.stored() if key.startswith("docker/registry/v2/blobs/")] == blobs
    assert len(plant.registry.log()) == asked
    assert not plant.publisher.retag(LocalImage("prod/app", "live"), APP, allowed=anything).created


def test_a_retag_of_nothing_changes_nothing(plant: Plant) -> None:
    with pytest.raises(ImageNotHeld):
        plant.publisher.retag(LocalImage("prod/app", "live"), APP, allowed=anything)
    assert plant.stored() == []


def test_a_refused_precondition_leaves_the_target_without_a_trace(plant: Plant) -> None:
    mirrored(plant, images.image(images.layer("a")))
    before = plant.stored()
    with pytest.raises(PreconditionFailed):
        plant.publisher.retag(LocalImage("prod/app", "live"), APP, allowed=lambda current: current is not None)
    assert plant.stored() == before


def test_an_image_that_the_collector_is_deleting_is_not_retagged(plant: Plant) -> None:
    layer = images.layer("a")
    mirrored(plant, images.image(layer))
    assert Pins(plant.redis).begin_delete(layer.digest, 60)
    with pytest.raises(BlobBeingDeleted):
        plant.publisher.retag(LocalImage("prod/app", "live"), APP, allowed=anything)


def test_a_delete_takes_the_tag_and_nothing_that_another_tag_needs(plant: Plant) -> None:
    image = images.image(images.layer("a"))
    mirrored(plant, image)
    plant.publisher.retag(LocalImage("team/app", "2"), APP, allowed=anything)
    plant.publisher.delete(APP, allowed=anything)
    with pytest.raises(ImageNotHeld):
        plant.reader.digest(APP)
    assert plant.reader.image(LocalImage("team/app", "2")).digest == image.digest
    mark_built(plant.index)
    assert plant.index.tags("team/app", limit=5) == (["2"], None)
    assert not [key for key in plant.stored() if key.startswith(layout.tag_prefix("team/app", "1"))]
    with pytest.raises(ImageNotHeld):
        plant.publisher.delete(APP, allowed=anything)


def test_a_delete_heeds_its_precondition(plant: Plant) -> None:
    image = images.image(images.layer("a"))
    mirrored(plant, image)
    with pytest.raises(PreconditionFailed, match=str(image.digest)):
        plant.publisher.delete(APP, allowed=lambda current: current != image.digest)
    assert plant.reader.digest(APP) == image.digest


def test_a_tag_moves_with_its_history_kept(plant: Plant) -> None:
    first, second = images.image(images.layer("a")), images.image(images.layer("b"))
    mirrored(plant, first)
    mirrored(plant, second)
    assert plant.reader.digest(APP) == second.digest
    assert set(plant.links.history("team/app", "1")) == {first.digest, second.digest}


def test_a_tag_whose_lease_others_hold_is_busy(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    mirrored(plant, images.image(images.layer("a")))
    monkeypatch.setattr("mirror.catalog.publishing._PATIENCE", 0.1)
    assert Leases(plant.redis).take(keys.tag_lease("team/app", "1"), 30)
    with pytest.raises(TagBusy):
        plant.publisher.delete(APP, allowed=anything)


def test_a_lost_index_is_rebuilt_from_the_bucket(plant: Plant) -> None:
    mirrored(plant, images.three_platforms("x"))
    mirrored(plant, images.image(images.layer("b", 5000)), LocalImage("team/app", "2"))
    mark_built(plant.index)
    before = plant.index.images(limit=10, wanted=lambda _: True), plant.index.repositories(limit=10)
    plant.redis.call("FLUSHALL")
    assert not plant.index.is_built()
    assert Rebuilder(plant.bucket, plant.redis, plant.publisher).rebuild(lambda: True)
    assert (plant.index.images(limit=10, wanted=lambda _: True), plant.index.repositories(limit=10)) == before


def test_a_rebuild_forgets_a_tag_that_the_bucket_does_not_have(plant: Plant) -> None:
    mirrored(plant, images.image(images.layer("a")))
    plant.links.delete_tag("team/app", "1")
    assert Rebuilder(plant.bucket, plant.redis, plant.publisher).rebuild(lambda: True)
    assert plant.index.repositories(limit=10) == ([], None)


def test_one_damaged_tag_does_not_keep_the_others_from_being_listed(plant: Plant) -> None:
    mirrored(plant, images.image(images.layer("a")))
    mirrored(plant, images.image(images.layer("b")), LocalImage("team/app", "2"))
    plant.bucket.put(layout.tag_current_key("team/app", "1"), b"no digest")
    plant.redis.call("FLUSHALL")
    assert Rebuilder(plant.bucket, plant.redis, plant.publisher).rebuild(lambda: True)
    assert plant.index.tags("team/app", limit=5) == (["2"], None)


def test_a_manifest_that_was_changed_in_the_bucket_is_not_served(plant: Plant) -> None:
    image = images.image(images.layer("a"))
    mirrored(plant, image)
    plant.bucket.put(layout.blob_key(image.digest), image.body + b" ")
    with pytest.raises(StorageDamaged):
        plant.reader.manifest(APP)


def tickets(plant: Plant, *tags: str) -> list[Ticket]:
    return plant.publisher.tickets([(LocalImage("team/app", tag), f"job for {tag}") for tag in tags])


def confirmed(plant: Plant, *wanted: tuple[Ticket, Digest]) -> list[Published | None]:
    with plant.publisher.holding_tags(wanted) as tags:
        return tags.confirm(wanted)


def three_tags(plant: Plant) -> tuple[Digest, list[str]]:
    image, tags = images.image(images.layer("a")), ["1", "2", "3"]
    for tag in tags:
        mirrored(plant, image, LocalImage("team/app", tag))
    return image.digest, tags


def test_many_tags_are_confirmed_together_and_their_leases_given_back(plant: Plant) -> None:
    digest, tags = three_tags(plant)
    targets = [LocalImage("team/app", tag) for tag in [*tags, "4"]]
    listed = plant.publisher.listed([*targets, LocalImage("team/app", None, digest)])
    assert [found and found.digest for found in listed] == [digest] * 3 + [None, None]
    found = tickets(plant, *tags)
    assert confirmed(plant, *((t, digest) for t in found)) == [Published(digest)] * 3
    assert not any(Leases(plant.redis).is_held(keys.tag_lease("team/app", tag)) for tag in tags)
    sequence = TagSequence(plant.redis)
    assert [sequence.published("team/app", t.target.tag or "") for t in found] == [
        Publication(t.number, t.by) for t in found
    ]
    assert confirmed(plant) == []


def test_of_many_tags_those_that_show_something_else_or_are_busy_are_not_confirmed(plant: Plant) -> None:
    digest, tags = three_tags(plant)
    lease = Leases(plant.redis).take(keys.tag_lease("team/app", "2"), 30)
    assert lease
    one, two, three = tickets(plant, *tags)
    other = Digest.of(b"another image")
    assert confirmed(plant, (one, digest), (two, digest), (three, other)) == [
        Published(digest),
        None,
        None,
    ]
    assert Leases(plant.redis).renew(lease)


def test_of_two_changes_of_one_tag_one_is_confirmed_at_a_time(plant: Plant) -> None:
    digest, _ = three_tags(plant)
    first, second = tickets(plant, "1", "1")
    assert confirmed(plant, (second, digest), (first, digest)) == [Published(digest), None]
    assert confirmed(plant, (first, digest)) == [Published(digest, superseded_by="job for 1")]


def test_tags_that_s3_took_too_long_to_show_are_not_confirmed(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their leases may have ended, and somebody else may have moved them."""
    digest, tags = three_tags(plant)
    before = [TagSequence(plant.redis).published("team/app", tag) for tag in tags]
    monkeypatch.setattr("mirror.catalog.publishing.LEASE_SECONDS", 0.001)
    assert confirmed(plant, *((t, digest) for t in tickets(plant, *tags))) == [None] * 3
    assert [TagSequence(plant.redis).published("team/app", tag) for tag in tags] == before


def test_a_tag_whose_lease_was_lost_since_is_not_confirmed(plant: Plant) -> None:
    """As by a restart of Redis: somebody else has it now, and may have moved the tag."""
    digest, tags = three_tags(plant)
    wanted = [(ticket, digest) for ticket in tickets(plant, *tags)]
    with plant.publisher.holding_tags(wanted) as held:
        plant.redis.call("SET", keys.tag_lease("team/app", "2"), "somebody else")
        assert held.confirm(wanted) == [Published(digest), None, Published(digest)]
    assert [Leases(plant.redis).is_held(keys.tag_lease("team/app", tag)) for tag in tags] == [False, True, False]


def test_the_leases_of_tags_that_s3_would_not_show_are_given_back(
    plant: Plant, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest, tags = three_tags(plant)
    found = tickets(plant, *tags)
    monkeypatch.setattr(plant.bucket, "name", "a-bucket-that-is-not-there")
    with pytest.raises((StorageRefused, StorageUnavailable)):
        confirmed(plant, *((t, digest) for t in found))
    assert not any(Leases(plant.redis).is_held(keys.tag_lease("team/app", tag)) for tag in tags)
