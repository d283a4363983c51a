"""The rebuild of the index while images are published, with real images in a real bucket."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from mirror.catalog.index import CatalogIndex, RebuildProgress
from mirror.catalog.rebuilding import Rebuilder
from mirror.oci.digest import Digest
from mirror.oci.local_image import LocalImage
from mirror.storage import layout
from mirror.storage.bucket import ObjectStream
from tests import images
from tests.plant import Plant

APP = LocalImage("team/app", "1")


def mirrored(plant: Plant, image: images.TestImage, target: LocalImage = APP) -> None:
    plant.registry.put(image, "source/app", "1")
    job = plant.mirror("source/app:1", str(target))
    assert job.state == "succeeded", job.error


def rebuilt(plant: Plant, alive: Callable[[], bool] = lambda: True) -> bool:
    return Rebuilder(plant.bucket, plant.redis, plant.publisher).rebuild(alive)


def listed(plant: Plant) -> dict[str, str]:
    found, _ = plant.index.images(limit=100, wanted=lambda _: True)
    return {f"{entry.repository}:{entry.tag}": entry.digest for entry in found}


def retag(plant: Plant, target: LocalImage, source: LocalImage = APP) -> None:
    plant.publisher.retag(target, source, allowed=lambda _: True)


@pytest.fixture
def read(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The keys of all objects that are read from now on."""
    keys: list[str] = []
    open_object = plant.bucket.open

    def noted(key: str, *args: Any, **options: Any) -> ObjectStream | None:
        keys.append(key)
        return open_object(key, *args, **options)

    monkeypatch.setattr(plant.bucket, "open", noted)
    return keys


def with_many_tags(plant: Plant) -> None:
    mirrored(plant, images.three_platforms("x"))
    for number in range(20):
        retag(plant, LocalImage("team/app", f"1.{number}"))
        retag(plant, LocalImage("prod/app", f"1.{number}"))
    plant.redis.call("FLUSHALL")


def test_one_record_is_read_for_each_image_of_a_repository_and_no_manifest(plant: Plant, read: list[str]) -> None:
    with_many_tags(plant)
    read.clear()
    assert rebuilt(plant)
    assert len(listed(plant)) == 41
    assert sorted(key.rpartition("/")[0] for key in read) == ["mirror/v1/images/prod/app", "mirror/v1/images/team/app"]


def test_without_records_each_manifest_and_config_is_read_once_however_many_tags_show_it(
    plant: Plant, read: list[str]
) -> None:
    """As for images that an older version mirrored, or another registry wrote."""
    with_many_tags(plant)
    plant.bucket.delete([key for key in plant.stored() if key.startswith("mirror/v1/images/")])
    read.clear()
    assert rebuilt(plant)
    assert len(listed(plant)) == 41
    blobs = [key for key in read if key.startswith("docker/registry/v2/blobs/")]
    assert len(blobs) == len(set(blobs)) == 4  # the index and its three manifests
    assert not [key for key in read if key.startswith(layout.repositories_prefix())]  # the listing shows the links


def test_a_rebuild_from_records_and_one_from_manifests_list_the_same(plant: Plant) -> None:
    mirrored(plant, images.three_platforms("x"))
    mirrored(plant, images.image(images.layer("a", 3000)), LocalImage("team/app", "2"))

    def state() -> tuple[object, object]:
        found = plant.index.images(limit=10, wanted=lambda _: True)[0]
        return [(e.tag, e.digest, e.media_type, e.size, e.platforms) for e in found], plant.index.repositories(limit=9)

    plant.redis.call("FLUSHALL")
    assert rebuilt(plant)
    from_records = state()
    plant.bucket.delete([key for key in plant.stored() if key.startswith("mirror/v1/images/")])
    plant.redis.call("FLUSHALL")
    assert rebuilt(plant)
    assert state() == from_records


@pytest.mark.parametrize("change", ["moved", "deleted", "new"])
def test_what_is_published_during_a_rebuild_is_not_overwritten(
    plant: Plant, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    """The change comes when the rebuild has read the old state, and before it lists that."""
    mirrored(plant, images.image(images.layer("old")))
    new = images.image(images.layer("new"))
    mirrored(plant, new, LocalImage("other/app", "1"))
    plant.redis.call("FLUSHALL")
    put_unchanged = CatalogIndex.put_unchanged

    def late(index: CatalogIndex, entries: object) -> None:
        monkeypatch.setattr(CatalogIndex, "put_unchanged", put_unchanged)
        read = list(entries)  # type: ignore[call-overload]  # an iterable: what the rebuild has read
        if change == "moved":
            retag(plant, APP, LocalImage("other/app", "1"))
        elif change == "deleted":
            plant.publisher.delete(APP, allowed=lambda _: True)
        else:
            retag(plant, LocalImage("team/app", "2"), LocalImage("other/app", "1"))
        index.put_unchanged(read)

    monkeypatch.setattr(CatalogIndex, "put_unchanged", late)
    assert rebuilt(plant)
    in_bucket = {
        f"{repository.name}:{tag}": str(plant.links.current(repository.name, tag))
        for repository in plant.links.repositories()
        for tag in repository.tags
    }
    assert listed(plant) == in_bucket
    assert in_bucket.get("team/app:1") != str(new.digest) or change == "moved"


def test_a_rebuild_that_was_stopped_is_gone_on_with_and_lists_everything(plant: Plant) -> None:
    mirrored(plant, images.image(images.layer("a")))
    plant.redis.call("FLUSHALL")
    assert not rebuilt(plant, alive=lambda: False)
    assert not plant.index.is_built()
    assert plant.index.progress() == RebuildProgress(0, "")
    assert rebuilt(plant)
    assert list(listed(plant)) == ["team/app:1"]
    assert plant.index.progress() is None


def test_a_rebuild_during_which_redis_loses_its_data_again_does_not_count(plant: Plant) -> None:
    mirrored(plant, images.image(images.layer("a")))
    plant.redis.call("FLUSHALL")

    def alive() -> bool:
        plant.redis.call("FLUSHALL")
        return True

    assert not rebuilt(plant, alive)
    assert not plant.index.is_built()


def test_a_tag_whose_entry_is_of_another_time_is_listed_as_the_bucket_has_it(plant: Plant) -> None:
    """As when a Redis came back with old data, whose rebuild had not ended."""
    old, new = images.image(images.layer("old")), images.image(images.layer("new"))
    mirrored(plant, old)
    entry = plant.index.entry("team/app", "1")
    assert entry
    mirrored(plant, new)
    plant.redis.call("FLUSHALL")
    CatalogIndex(plant.redis).put_unchanged([(entry, {old.digest: 1})])
    assert rebuilt(plant)
    assert listed(plant) == {"team/app:1": str(new.digest)}
    assert plant.index.repositories(limit=1)[0][0].bytes == plant_bytes(plant, new.digest)


def plant_bytes(plant: Plant, digest: Digest) -> int:
    return sum(plant.reader.image(LocalImage("team/app", None, digest)).sizes.values())


def test_a_tag_of_a_manifest_that_its_repository_does_not_have_is_not_listed(plant: Plant) -> None:
    """A stock registry answers 404 for it, and so does ours."""
    mirrored(plant, images.image(images.layer("a")))
    mirrored(plant, images.image(images.layer("b")), LocalImage("team/app", "2"))
    current = plant.links.current("team/app", "1")
    assert current
    plant.bucket.delete([layout.revision_link_key("team/app", current)])
    plant.redis.call("FLUSHALL")
    assert rebuilt(plant)
    assert list(listed(plant)) == ["team/app:2"]
