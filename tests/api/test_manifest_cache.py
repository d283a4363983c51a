"""Manifests that are served again: from memory, within bounds, and only where they are linked."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from flask.testing import FlaskClient

from mirror.catalog import reader as reading
from mirror.catalog.current_tags import CurrentTags
from mirror.oci.digest import Digest
from mirror.oci.local_image import LocalImage
from mirror.storage import layout
from mirror.storage.served_bucket import ServedBucket
from mirror.wiring import Core
from service.app import create_app
from service.core import Service
from service.v2 import pulls
from service.v2.manifest_cache import Described, ManifestCache
from tests.api.seeded_catalog import SeededCatalog
from tests.support import images

FOREIGN = {
    "mediaType": "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
    "digest": f"sha256:{'f' * 64}",
    "size": 1000,
    "urls": [f"https://publisher.example/{'x' * 100}"],
}


def digest(number: int) -> Digest:
    return Digest.of(str(number).encode())


def put(cache: ManifestCache, number: int, size: int) -> None:
    cache.put(digest(number), Described("type", size), b"x" * size)


def test_bodies_are_kept_up_to_a_number_of_bytes_and_the_last_used_stay() -> None:
    cache = ManifestCache(100)
    for number in range(4):
        put(cache, number, 30)
        assert cache.body(digest(0)) is not None
    assert [cache.body(digest(number)) is not None for number in range(4)] == [True, False, True, True]
    put(cache, 4, 100)
    assert [cache.body(digest(number)) is not None for number in range(5)] == [False, False, False, False, True]
    put(cache, 5, 101)
    assert cache.body(digest(5)) is None
    assert cache.body(digest(4)) is not None


def test_a_body_that_is_being_sent_is_found_when_it_no_longer_fits() -> None:
    """So clients that are slow share one copy of it."""
    cache = ManifestCache(10)
    sent = cache.put(digest(1), Described("type", 20), b"x" * 20)
    assert cache.body(digest(1)) is sent
    assert cache.put(digest(1), Described("type", 20), b"x" * 20) is sent
    assert list(sent) == [b"x" * 20]
    del sent
    assert cache.body(digest(1)) is None


def test_what_is_put_twice_counts_once() -> None:
    cache = ManifestCache(100)
    for _ in range(10):
        put(cache, 1, 40)
    put(cache, 2, 40)
    assert cache.body(digest(1)) is not None


def test_types_outlive_their_bodies_within_a_bound_of_their_own() -> None:
    cache = ManifestCache(10, most_types=3)
    for number in range(5):
        put(cache, number, 10)
        assert cache.described(digest(number)) == Described("type", 10)
    assert [cache.described(digest(number)) is not None for number in range(5)] == [False, False, True, True, True]


@pytest.fixture
def checks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of all manifests that are parsed."""
    seen: list[int] = []

    def checked(body: bytes, digest: Digest) -> Any:
        seen.append(len(body))
        return reading.checked_manifest(body, digest)

    monkeypatch.setattr(pulls, "checked_manifest", checked)
    return seen


@pytest.mark.parametrize("layers", [0, 5_000], ids=["small", "of more than a MiB"])
def test_a_manifest_is_parsed_once_however_often_it_is_asked_for(
    anyone: FlaskClient, mirror: SeededCatalog, core: Core, checks: list[int], layers: int
) -> None:
    held = images.image(images.layer("held"), foreign=[FOREIGN] * layers)
    mirror.hold(held, "team/app:1")
    for reference in ("1", str(held.digest)):
        for method in ("HEAD", "GET", "GET", "HEAD"):
            response = anyone.open(f"/v2/team/app/manifests/{reference}", method=method)
            assert response.status_code == 200
            assert response.data == (held.body if method == "GET" else b"")
            assert response.headers["Content-Length"] == str(len(held.body))
            assert response.content_type == held.media_type
    assert checks == [len(held.body)]
    core.bucket.delete([layout.blob_key(held.digest)])
    assert anyone.get("/v2/team/app/manifests/1").data == held.body


def test_what_memory_holds_is_served_only_where_it_was_linked_five_minutes_ago(
    service: Service, mirror: SeededCatalog, core: Core
) -> None:
    now = [0.0]
    found = pulls.Pulls(
        CurrentTags(service.pull_redis), ServedBucket(core.bucket, None), ManifestCache(), clock=lambda: now[0]
    )
    anyone = create_app(replace(service, pulls=found)).test_client()
    held = images.image(images.layer("linked"))
    mirror.hold(held, "team/app:1")
    path = f"/v2/team/app/manifests/{held.digest}"
    assert anyone.get(path).status_code == 200
    assert anyone.get(f"/v2/team/other/manifests/{held.digest}").status_code == 404
    assert anyone.head(f"/v2/team/other/manifests/{held.digest}").status_code == 404
    core.bucket.delete([layout.revision_link_key("team/app", held.digest)])
    assert anyone.get(path).status_code == 200
    now[0] += pulls.FOUND_SECONDS + 1
    assert [anyone.open(path, method=method).status_code for method in ("GET", "HEAD")] == [404, 404]
    assert anyone.get("/v2/team/app/manifests/1").status_code == 404


def test_a_moved_tag_shows_what_it_points_at_now(anyone: FlaskClient, mirror: SeededCatalog) -> None:
    for number in range(3):
        held = images.image(images.layer(f"version {number}"))
        mirror.hold(held, "team/app:1")
        assert anyone.get("/v2/team/app/manifests/1").data == held.body


def test_a_body_that_was_changed_in_the_bucket_is_not_served_even_if_its_type_is_known(
    mirror: SeededCatalog, service: Service
) -> None:
    held = images.image(images.layer("changed"))
    mirror.hold(held, "team/app:1")
    manifests = ManifestCache()
    manifests.put(held.digest, Described(held.media_type, len(held.body)), b"x" * (64 * 2**20))
    found = pulls.Pulls(CurrentTags(service.pull_redis), ServedBucket(service.core.bucket, None), manifests)
    anyone = create_app(replace(service, pulls=found)).test_client()
    service.core.bucket.put(layout.blob_key(held.digest), held.body.replace(b"2", b"3", 1))
    response = anyone.get(f"/v2/{LocalImage.parse('team/app').repository}/manifests/1")
    assert (response.status_code, response.get_json()["errors"][0]["code"]) == (500, "STORAGE_DAMAGED")


def test_the_blobs_of_a_manifest_that_was_pulled_are_found_without_another_request(
    service: Service, mirror: SeededCatalog, core: Core
) -> None:
    now = [0.0]
    bucket = ServedBucket(core.bucket, None)
    found = pulls.Pulls(CurrentTags(service.pull_redis), bucket, ManifestCache(), clock=lambda: now[0])
    anyone = create_app(replace(service, pulls=found)).test_client()
    held = images.image(images.layer("linked"), foreign=[FOREIGN])
    mirror.hold(held, "team/app:1")
    blob = next(iter(held.blobs))
    assert anyone.get("/v2/team/app/manifests/1").status_code == 200
    core.bucket.delete([layout.layer_link_key("team/app", blob)])
    assert anyone.get(f"/v2/team/app/blobs/{blob}").data == held.blobs[blob]
    assert anyone.get(f"/v2/team/other/blobs/{blob}").status_code == 404
    assert anyone.get(f"/v2/team/app/blobs/{FOREIGN['digest']}").status_code == 404
    core.bucket.delete([layout.blob_key(blob)])
    response = anyone.get(f"/v2/team/app/blobs/{blob}")
    assert (response.status_code, response.get_json()["errors"][0]["code"]) == (404, "BLOB_UNKNOWN")
    now[0] += pulls.FOUND_SECONDS + 1
    assert anyone.head(f"/v2/team/app/blobs/{blob}").status_code == 404
