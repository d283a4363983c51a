"""The rebuild of the index while images are published, with real images in a real bucket."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from mirror.catalog.index import IndexRebuild, RebuildProgress
from mirror.oci.digest import Digest
from mirror.oci.local_image import LocalImage
from mirror.storage import layout
from mirror.storage.object_stream import ObjectStream
from tests.integration.catalog.support import APP, mirror_image
from tests.support import images
from tests.support.harness import Harness, mark_built


def rebuilt(harness: Harness, alive: Callable[[], bool] = lambda: True) -> bool:
    return harness.core.rebuilder.rebuild(alive)


def listed(harness: Harness) -> dict[str, str]:
    found, _ = harness.core.index.images(limit=100, wanted=lambda _: True)
    return {f"{entry.repository}:{entry.tag}": entry.digest for entry in found}


def retag(harness: Harness, target: LocalImage, source: LocalImage = APP) -> None:
    harness.core.retagger.retag(target, source, allowed=lambda _: True)


@pytest.fixture
def read(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Record the keys of all objects that are read from now on."""
    keys: list[str] = []
    open_object = harness.bucket.open

    def noted(key: str, *args: Any, **options: Any) -> ObjectStream | None:
        keys.append(key)
        return open_object(key, *args, **options)

    monkeypatch.setattr(harness.bucket, "open", noted)
    return keys


def test_a_lost_index_is_rebuilt_from_the_bucket(harness: Harness) -> None:
    mirror_image(harness, images.three_platforms("x"))
    mirror_image(harness, images.image(images.layer("b", 5000)), LocalImage("team/app", "2"))
    mark_built(harness.redis)
    before = harness.core.index.images(limit=10, wanted=lambda _: True), harness.core.index.repositories(limit=10)
    harness.redis.call("FLUSHALL")
    assert not harness.core.index.is_built()
    assert rebuilt(harness)
    assert (
        harness.core.index.images(limit=10, wanted=lambda _: True),
        harness.core.index.repositories(limit=10),
    ) == before


def test_a_rebuild_removes_a_tag_that_the_bucket_does_not_have(harness: Harness) -> None:
    mirror_image(harness, images.image(images.layer("a")))
    harness.core.links.delete_tag("team/app", "1", timeout=10)
    assert rebuilt(harness)
    assert harness.core.index.repositories(limit=10) == ([], None)


def test_a_damaged_tag_is_left_out_and_the_others_are_listed(harness: Harness) -> None:
    mirror_image(harness, images.image(images.layer("a")))
    mirror_image(harness, images.image(images.layer("b")), LocalImage("team/app", "2"))
    harness.bucket.put(layout.tag_current_key("team/app", "1"), b"no digest")
    harness.redis.call("FLUSHALL")
    assert rebuilt(harness)
    assert harness.core.index.tags("team/app", limit=5) == (["2"], None)


def with_many_tags(harness: Harness) -> None:
    mirror_image(harness, images.three_platforms("x"))
    for number in range(20):
        retag(harness, LocalImage("team/app", f"1.{number}"))
        retag(harness, LocalImage("prod/app", f"1.{number}"))
    harness.redis.call("FLUSHALL")


def test_one_record_is_read_for_each_image_of_a_repository_and_no_manifest(harness: Harness, read: list[str]) -> None:
    with_many_tags(harness)
    read.clear()
    assert rebuilt(harness)
    assert len(listed(harness)) == 41
    assert sorted(key.rpartition("/")[0] for key in read) == ["mirror/v1/images/prod/app", "mirror/v1/images/team/app"]


def test_without_records_each_manifest_and_config_is_read_once_however_many_tags_show_it(
    harness: Harness, read: list[str]
) -> None:
    """An older version mirrored the images, or another registry wrote them."""
    with_many_tags(harness)
    harness.bucket.delete([key for key in harness.stored() if key.startswith("mirror/v1/images/")])
    read.clear()
    assert rebuilt(harness)
    assert len(listed(harness)) == 41
    blobs = [key for key in read if key.startswith("docker/registry/v2/blobs/")]
    assert len(blobs) == len(set(blobs)) == 4  # the index and its three manifests
    assert not [key for key in read if key.startswith(layout.REPOSITORIES_PREFIX)]  # the listing shows the links


def test_a_rebuild_from_records_and_one_from_manifests_list_the_same(harness: Harness) -> None:
    mirror_image(harness, images.three_platforms("x"))
    mirror_image(harness, images.image(images.layer("a", 3000)), LocalImage("team/app", "2"))

    def state() -> tuple[object, object]:
        found = harness.core.index.images(limit=10, wanted=lambda _: True)[0]
        return [(e.tag, e.digest, e.media_type, e.size, e.platforms) for e in found], harness.core.index.repositories(
            limit=9
        )

    harness.redis.call("FLUSHALL")
    assert rebuilt(harness)
    from_records = state()
    harness.bucket.delete([key for key in harness.stored() if key.startswith("mirror/v1/images/")])
    harness.redis.call("FLUSHALL")
    assert rebuilt(harness)
    assert state() == from_records


@pytest.mark.parametrize("change", ["moved", "deleted", "new"])
def test_what_is_published_during_a_rebuild_is_not_overwritten(
    harness: Harness, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    """The change comes after the rebuild read the old state, and before it lists that."""
    mirror_image(harness, images.image(images.layer("old")))
    new = images.image(images.layer("new"))
    mirror_image(harness, new, LocalImage("other/app", "1"))
    harness.redis.call("FLUSHALL")
    put_unchanged = IndexRebuild.put_unchanged

    def late(index: IndexRebuild, entries: object) -> None:
        monkeypatch.setattr(IndexRebuild, "put_unchanged", put_unchanged)
        read = list(entries)  # type: ignore[call-overload]  # an iterable: what the rebuild has read
        if change == "moved":
            retag(harness, APP, LocalImage("other/app", "1"))
        elif change == "deleted":
            harness.core.deleter.delete(APP, allowed=lambda _: True)
        else:
            retag(harness, LocalImage("team/app", "2"), LocalImage("other/app", "1"))
        index.put_unchanged(read)

    monkeypatch.setattr(IndexRebuild, "put_unchanged", late)
    assert rebuilt(harness)
    in_bucket = {
        f"{repository.name}:{tag}": str(harness.core.links.current(repository.name, tag))
        for repository in harness.core.links.repositories()
        for tag in repository.tags
    }
    assert listed(harness) == in_bucket
    assert in_bucket.get("team/app:1") != str(new.digest) or change == "moved"


def test_a_rebuild_after_one_that_was_stopped_lists_everything(harness: Harness) -> None:
    mirror_image(harness, images.image(images.layer("a")))
    harness.redis.call("FLUSHALL")
    assert not rebuilt(harness, alive=lambda: False)
    assert not harness.core.index.is_built()
    assert harness.core.index.progress() == RebuildProgress(0, "")
    assert rebuilt(harness)
    assert list(listed(harness)) == ["team/app:1"]
    assert harness.core.index.progress() is None


def test_a_rebuild_during_which_redis_loses_its_data_again_does_not_count(harness: Harness) -> None:
    mirror_image(harness, images.image(images.layer("a")))
    harness.redis.call("FLUSHALL")

    def alive() -> bool:
        harness.redis.call("FLUSHALL")
        return True

    assert not rebuilt(harness, alive)
    assert not harness.core.index.is_built()


def test_a_tag_with_an_old_entry_is_listed_as_the_bucket_has_it(harness: Harness) -> None:
    """Redis came back with old data, from before the end of a rebuild."""
    old, new = images.image(images.layer("old")), images.image(images.layer("new"))
    mirror_image(harness, old)
    entry = harness.core.index.entry("team/app", "1")
    assert entry
    mirror_image(harness, new)
    harness.redis.call("FLUSHALL")
    IndexRebuild(harness.redis).put_unchanged([(entry, {old.digest: 1})])
    assert rebuilt(harness)
    assert listed(harness) == {"team/app:1": str(new.digest)}
    assert harness.core.index.repositories(limit=1)[0][0].bytes == bytes_of(harness, new.digest)


def bytes_of(harness: Harness, digest: Digest) -> int:
    return sum(harness.core.reader.image(LocalImage("team/app", None, digest)).sizes.values())


def test_a_tag_of_a_manifest_that_its_repository_does_not_have_is_not_listed(harness: Harness) -> None:
    """A stock registry returns 404 for it, and so does the mirror."""
    mirror_image(harness, images.image(images.layer("a")))
    mirror_image(harness, images.image(images.layer("b")), LocalImage("team/app", "2"))
    current = harness.core.links.current("team/app", "1")
    assert current
    harness.bucket.delete([layout.revision_link_key("team/app", current)])
    harness.redis.call("FLUSHALL")
    assert rebuilt(harness)
    assert list(listed(harness)) == ["team/app:2"]
