"""Publish, re-tag, delete and rebuild, on real images in a real bucket."""

from __future__ import annotations

import pytest

from mirror.catalog.rebuilding import rebuild
from mirror.coordination import keys
from mirror.coordination.lease import Leases
from mirror.coordination.pins import Pins
from mirror.errors import BlobBeingDeleted, ImageNotHeld, PreconditionFailed, StorageDamaged, TagBusy
from mirror.oci.digest import Digest
from mirror.oci.local_image import LocalImage
from mirror.storage import layout
from tests import images
from tests.plant import Plant

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
    plant.index.mark_built()
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
    plant.index.mark_built()
    before = plant.index.images(limit=10, wanted=lambda _: True), plant.index.repositories(limit=10)
    plant.redis.call("FLUSHALL")
    assert not plant.index.is_built()
    assert rebuild(plant.index, plant.links, plant.publisher, alive=lambda: True)
    assert (plant.index.images(limit=10, wanted=lambda _: True), plant.index.repositories(limit=10)) == before


def test_a_rebuild_forgets_a_tag_that_the_bucket_does_not_have(plant: Plant) -> None:
    mirrored(plant, images.image(images.layer("a")))
    plant.links.delete_tag("team/app", "1")
    assert rebuild(plant.index, plant.links, plant.publisher, alive=lambda: True)
    assert plant.index.repositories(limit=10) == ([], None)


def test_one_damaged_tag_does_not_keep_the_others_from_being_listed(plant: Plant) -> None:
    mirrored(plant, images.image(images.layer("a")))
    mirrored(plant, images.image(images.layer("b")), LocalImage("team/app", "2"))
    plant.bucket.put(layout.tag_current_key("team/app", "1"), b"no digest")
    plant.redis.call("FLUSHALL")
    assert rebuild(plant.index, plant.links, plant.publisher, alive=lambda: True)
    assert plant.index.tags("team/app", limit=5) == (["2"], None)


def test_a_manifest_that_was_changed_in_the_bucket_is_not_served(plant: Plant) -> None:
    image = images.image(images.layer("a"))
    mirrored(plant, image)
    plant.bucket.put(layout.blob_key(image.digest), image.body + b" ")
    with pytest.raises(StorageDamaged):
        plant.reader.manifest(APP)
