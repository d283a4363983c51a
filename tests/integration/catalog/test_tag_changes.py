"""Publish, retag and delete, on real images in a real bucket."""

from __future__ import annotations

import pytest

from mirror.catalog.tag_change import LEASE_SECONDS
from mirror.errors import BlobBeingDeleted, ImageNotHeld, PreconditionFailed, StorageUnavailable, TagBusy
from mirror.locks.lease import Leases
from mirror.locks.pins import Pins
from mirror.oci.local_image import LocalImage
from mirror.redis import keys
from mirror.storage import layout
from mirror.storage.s3 import ResponseLate
from tests.integration.catalog.support import APP, always, mirror_image
from tests.support import images
from tests.support.harness import Harness, mark_built


def test_a_retag_moves_no_bytes_and_asks_no_registry(harness: Harness) -> None:
    image = images.three_platforms("x")
    mirror_image(harness, image)
    blobs = [key for key in harness.stored() if key.startswith("docker/registry/v2/blobs/")]
    asked = len(harness.registry.log())
    published = harness.core.retagger.retag(LocalImage("prod/app", "live"), APP, allowed=always)
    assert published.created
    assert harness.core.reader.digest(LocalImage("prod/app", "live")) == image.digest
    held = harness.core.reader.image(LocalImage("prod/app", "live"))
    assert len(held.manifests) == 4
    assert all(harness.core.links.has_layer("prod/app", blob.digest) for blob in held.blobs)
    assert [key for key in harness.stored() if key.startswith("docker/registry/v2/blobs/")] == blobs
    assert len(harness.registry.log()) == asked
    assert not harness.core.retagger.retag(LocalImage("prod/app", "live"), APP, allowed=always).created


def test_a_retag_of_nothing_changes_nothing(harness: Harness) -> None:
    with pytest.raises(ImageNotHeld):
        harness.core.retagger.retag(LocalImage("prod/app", "live"), APP, allowed=always)
    assert harness.stored() == []


def test_a_refused_precondition_leaves_the_target_without_a_trace(harness: Harness) -> None:
    mirror_image(harness, images.image(images.layer("a")))
    before = harness.stored()
    with pytest.raises(PreconditionFailed):
        harness.core.retagger.retag(LocalImage("prod/app", "live"), APP, allowed=lambda current: current is not None)
    assert harness.stored() == before


def test_an_image_that_the_collector_is_deleting_is_not_retagged(harness: Harness) -> None:
    layer = images.layer("a")
    mirror_image(harness, images.image(layer))
    assert Pins(harness.redis).begin_delete(layer.digest, 60)
    with pytest.raises(BlobBeingDeleted):
        harness.core.retagger.retag(LocalImage("prod/app", "live"), APP, allowed=always)


def test_a_delete_removes_the_tag_and_nothing_that_another_tag_needs(harness: Harness) -> None:
    image = images.image(images.layer("a"))
    mirror_image(harness, image)
    harness.core.retagger.retag(LocalImage("team/app", "2"), APP, allowed=always)
    harness.core.deleter.delete(APP, allowed=always)
    with pytest.raises(ImageNotHeld):
        harness.core.reader.digest(APP)
    assert harness.core.reader.image(LocalImage("team/app", "2")).digest == image.digest
    mark_built(harness.redis)
    assert harness.core.index.tags("team/app", limit=5) == (["2"], None)
    assert not [key for key in harness.stored() if key.startswith(layout.tag_prefix("team/app", "1"))]
    with pytest.raises(ImageNotHeld):
        harness.core.deleter.delete(APP, allowed=always)


def test_a_delete_checks_its_precondition(harness: Harness) -> None:
    image = images.image(images.layer("a"))
    mirror_image(harness, image)
    with pytest.raises(PreconditionFailed, match=str(image.digest)):
        harness.core.deleter.delete(APP, allowed=lambda current: current != image.digest)
    assert harness.core.reader.digest(APP) == image.digest


def test_a_tag_that_moves_keeps_its_history(harness: Harness) -> None:
    first, second = images.image(images.layer("a")), images.image(images.layer("b"))
    mirror_image(harness, first)
    mirror_image(harness, second)
    assert harness.core.reader.digest(APP) == second.digest
    history = [key for key in harness.stored() if key.startswith(layout.tag_history_prefix("team/app", "1"))]
    assert history == sorted(layout.tag_history_key("team/app", "1", image.digest) for image in (first, second))


def test_a_tag_that_another_process_has_locked_is_busy(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    mirror_image(harness, images.image(images.layer("a")))
    monkeypatch.setattr("mirror.catalog.tag_change._LOCK_TIMEOUT", 0.1)
    assert Leases(harness.redis).take(keys.tag_lease("team/app", "1"), 30)
    with pytest.raises(TagBusy):
        harness.core.deleter.delete(APP, allowed=always)


@pytest.mark.parametrize(
    ("error", "is_kept"),
    [
        (ResponseLate("write it", "S3 did not answer in time"), True),
        (StorageUnavailable("write it", "SlowDown"), False),
    ],
    ids=["late", "refused"],
)
def test_the_lease_of_a_tag_expires_if_s3_may_still_write_the_tag(
    harness: Harness, error: StorageUnavailable, is_kept: bool
) -> None:
    changes, lease = harness.core.changes, keys.tag_lease(APP.repository, str(APP.tag))
    with pytest.raises(StorageUnavailable), changes.lock(APP):
        raise error
    assert (0 < harness.redis.call("PTTL", lease) <= LEASE_SECONDS * 1000) is is_kept
    harness.redis.call("DEL", lease)
    [change] = changes.take_numbers([(APP, "test")])
    with pytest.raises(StorageUnavailable), changes.lock_all([change]):
        raise error
    assert (0 < harness.redis.call("PTTL", lease) <= LEASE_SECONDS * 1000) is is_kept
