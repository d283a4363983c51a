from __future__ import annotations

from typing import Any

import pytest
from flask.testing import FlaskClient

from mirror.catalog.checked import CheckedTags
from mirror.records.fields import at, timestamp
from mirror.wiring import Core
from tests.api.seeded_catalog import JOB, MIRRORED_AT, SeededCatalog
from tests.support import images
from tests.support.images import TestImage
from tests.support.stopped_clock import StoppedClock


@pytest.fixture
def index(mirror: SeededCatalog) -> TestImage:
    made = images.three_platforms("listed")
    mirror.hold(made, "docker.io/library/redis:7", source="docker.io/library/redis:7")
    return made


def names(api: FlaskClient, query: str) -> list[str]:
    response = api.get(f"/v1/images?{query}")
    assert response.status_code == 200, response.get_json()
    return [f"{entry['repository']}:{entry['tag']}" for entry in response.get_json()["items"]]


def size_of(image: TestImage) -> int:
    blobs = sum(map(len, image.all_blobs().values()))
    return blobs + sum(len(manifest.body) for manifest in image.all_manifests())


def test_a_listed_image_says_what_it_is_and_whence_it_came(api: FlaskClient, index: TestImage) -> None:
    assert api.get("/v1/images").get_json() == {
        "items": [
            {
                "repository": "docker.io/library/redis",
                "tag": "7",
                "digest": str(index.digest),
                "media_type": index.media_type,
                "size": size_of(index),
                "platforms": ["linux/amd64", "linux/arm/v7", "linux/arm64"],
                "source": "docker.io/library/redis:7",
                "mirrored_at": MIRRORED_AT,
                "checked_at": None,
                "job": JOB,
                "source_digest": str(index.digest),
                "platforms_mode": "all",
            }
        ],
        "next": None,
    }


def test_an_image_says_when_its_tag_was_compared_with_its_source(
    api: FlaskClient, core: Core, index: TestImage
) -> None:
    StoppedClock(core.redis)
    CheckedTags(core.redis).note([("docker.io/library/redis", "7")])
    now, image = timestamp(at(core.redis.now())), "/v1/images/docker.io/library/redis"
    assert [one["checked_at"] for one in api.get("/v1/images").get_json()["items"]] == [now]
    assert api.get(f"{image}:7").get_json()["checked_at"] == now
    assert api.get(f"{image}@{index.digest}").get_json()["checked_at"] is None
    assert api.put("/v1/images/team/redis:7", json={"from": "docker.io/library/redis:7"}).status_code == 201
    assert api.get("/v1/images/team/redis:7").get_json()["checked_at"] is None


def test_images_are_found_by_repository_tag_and_source(api: FlaskClient, mirror: SeededCatalog) -> None:
    one = images.image(images.layer("one"))
    for name, source in (("a/x:1", "redis:1"), ("a/x:2", "redis:2"), ("a/xy:1", "redis:1"), ("b:1", "quay.io/b/b:1")):
        mirror.hold(one, name, source=f"docker.io/library/{source}" if "/" not in source else source)
    assert names(api, "repository=a/x") == ["a/x:1", "a/x:2"]
    assert names(api, "tag=1") == ["a/x:1", "a/xy:1", "b:1"]
    assert names(api, "repository=a/x&tag=2") == ["a/x:2"]
    assert names(api, "source=redis:1") == ["a/x:1", "a/xy:1"]
    assert names(api, "repository=a") == []


def test_images_are_paged_in_lexical_order(api: FlaskClient, mirror: SeededCatalog) -> None:
    one = images.image(images.layer("one"))
    expected = ["a:1", "a:1.0", "a:1.0-alpine", "a:2", "b:1"]
    for name in reversed(expected):
        mirror.hold(one, name)
    seen: list[str] = []
    cursor = ""
    for _ in range(3):
        page = api.get(f"/v1/images?limit=2{cursor}").get_json()
        seen += [f"{entry['repository']}:{entry['tag']}" for entry in page["items"]]
        cursor = f"&cursor={page['next']}"
    assert (seen, page["next"]) == (expected, None)


def test_tags_of_referrers_are_listed_where_they_are_wanted(api: FlaskClient, mirror: SeededCatalog) -> None:
    one, digest = images.image(images.layer("one")), "0" * 64
    listed = ["a:1", "a:sha256-0"]
    of_referrers = [f"a:sha256-{digest}", f"a:sha256-{digest}.sig"]
    for name in (*listed, *of_referrers, "b:1"):
        mirror.hold(one, name)
    everything = ["a:1", "a:sha256-0", *of_referrers, "b:1"]
    assert names(api, "") == ["a:1", "a:sha256-0", "b:1"]
    assert names(api, "repository=a") == listed
    assert names(api, "referrers=true") == everything
    assert names(api, f"tag=sha256-{digest}") == of_referrers[:1]
    assert api.get("/v2/a/tags/list").get_json()["tags"] == ["1", "sha256-0", *(name[2:] for name in of_referrers)]
    assert read_in_pages(api, "/v1/images?limit=1&referrers=true") == everything
    assert read_in_pages(api, "/v1/images?limit=1") == ["a:1", "a:sha256-0", "b:1"]
    assert api.get("/v1/images?referrers=perhaps").status_code == 422


def read_in_pages(api: FlaskClient, url: str) -> list[str]:
    found: list[str] = []
    while url:
        response = api.get(url)
        found += [f"{entry['repository']}:{entry['tag']}" for entry in response.get_json()["items"]]
        url = response.headers.get("Link", "").partition(">")[0].lstrip("<")
    return found


def test_a_cursor_of_another_list_never_leads_out_of_the_repository(api: FlaskClient, mirror: SeededCatalog) -> None:
    one = images.image(images.layer("one"))
    for name in ("a:1", "a:2", "b:1", "c:1"):
        mirror.hold(one, name)
    cursor = api.get("/v1/images?limit=1").get_json()["next"]
    assert names(api, f"repository=c&cursor={cursor}") == ["c:1"]


@pytest.mark.parametrize(
    ("query", "code"),
    [("repository=A", "NAME_INVALID"), ("tag=.x", "TAG_INVALID"), ("source=x@y", "DIGEST_INVALID")],
)
def test_a_malformed_filter_is_422(api: FlaskClient, query: str, code: str) -> None:
    response = api.get(f"/v1/images?{query}")
    assert (response.status_code, response.get_json()["code"]) == (422, code)


def test_an_index_is_read_in_full(api: FlaskClient, index: TestImage) -> None:
    response = api.get("/v1/images/docker.io/library/redis:7")
    assert response.status_code == 200
    assert response.headers["ETag"] == f'"{index.digest}"'
    image: dict[str, Any] = response.get_json()
    assert (image["repository"], image["tag"]) == ("docker.io/library/redis", "7")
    assert image["manifest"]["manifests"] == [
        {**child.descriptor, "platform": image["manifest"]["manifests"][n]["platform"]}
        for n, child in enumerate(index.children.values())
    ]
    assert image["config"] is None
    assert (image["job"], image["source"], image["size"]) == (JOB, "docker.io/library/redis:7", size_of(index))
    assert [one["platform"] for one in image["images"]] == ["linux/amd64", "linux/arm64", "linux/arm/v7"]
    for one, child in zip(image["images"], index.children.values(), strict=True):
        assert (one["digest"], one["media_type"]) == (str(child.digest), child.media_type)
        assert one["size"] == len(child.body) + sum(map(len, child.blobs.values()))
        assert {one["config"]["digest"], *(layer["digest"] for layer in one["layers"])} == set(map(str, child.blobs))


def test_a_single_image_is_read_with_its_config_and_its_foreign_layers(api: FlaskClient, mirror: SeededCatalog) -> None:
    foreign = images.foreign_layer("windows")
    made = images.image(images.layer("one"), platform="linux/arm64", foreign=[foreign])
    mirror.hold(made, "team/app:1")
    image = api.get("/v1/images/team/app:1").get_json()
    assert image["config"]["architecture"] == "arm64"
    assert image["platforms"] == ["linux/arm64"]
    [one] = image["images"]
    assert one["platform"] == "linux/arm64"
    assert [(layer["foreign"], layer["held"]) for layer in one["layers"]] == [(False, True), (True, False)]
    assert one["layers"][1]["digest"] == foreign["digest"]
    assert one["size"] == size_of(made) == image["size"]


def test_a_foreign_layer_that_the_mirror_holds_is_shown_as_held_and_counted(
    api: FlaskClient, mirror: SeededCatalog
) -> None:
    made = images.with_foreign_layer(images.image(images.layer("one")), b"a base layer")
    mirror.hold(made, "team/app:1")
    image = api.get("/v1/images/team/app:1").get_json()
    [one] = image["images"]
    assert [(layer["foreign"], layer["held"]) for layer in one["layers"]] == [(False, True), (True, True)]
    [listed] = api.get("/v1/images?repository=team/app").get_json()["items"]
    assert one["size"] == size_of(made) == image["size"] == listed["size"]


def test_an_image_is_read_by_digest_in_its_own_repository_only(api: FlaskClient, index: TestImage) -> None:
    child = next(iter(index.children))
    assert api.get(f"/v1/images/docker.io/library/redis@{child}").get_json()["tag"] is None
    response = api.get(f"/v1/images/team/other@{child}")
    assert (response.status_code, response.get_json()["code"]) == (404, "MANIFEST_UNKNOWN")


def test_an_unchanged_image_is_304(api: FlaskClient, index: TestImage) -> None:
    response = api.get("/v1/images/docker.io/library/redis:7", headers={"If-None-Match": f'"{index.digest}"'})
    assert (response.status_code, response.data) == (304, b"")


def test_a_name_without_tag_and_digest_is_asked_for_one(api: FlaskClient, index: TestImage) -> None:
    problem = api.get("/v1/images/docker.io/library/redis").get_json()
    assert (problem["status"], problem["code"]) == (422, "NAME_INVALID")
    assert "Add a tag" in problem["hint"]


def test_repositories_are_counted_and_paged(api: FlaskClient, mirror: SeededCatalog) -> None:
    one, two = images.image(images.layer("one")), images.image(images.layer("one"), images.layer("two"))
    mirror.hold(one, "a:1")
    mirror.hold(two, "a:2")
    mirror.hold(one, "b/c:1")
    first = api.get("/v1/repositories?limit=1")
    page = first.get_json()
    both = {**one.all_blobs(), **two.all_blobs()}
    held = sum(map(len, both.values())) + len(one.body) + len(two.body)
    assert page["items"] == [{"name": "a", "tags": 2, "bytes": held}]
    assert f"cursor={page['next']}>" in first.headers["Link"]
    second = api.get(f"/v1/repositories?limit=1&cursor={page['next']}")
    assert second.get_json() == {"items": [{"name": "b/c", "tags": 1, "bytes": size_of(one)}], "next": None}
    assert "Link" not in second.headers


@pytest.mark.parametrize("path", ["/v1/images", "/v1/repositories", "/v2/_catalog", "/v2/a/tags/list"])
def test_lists_answer_503_until_the_index_is_built(api: FlaskClient, core: Core, path: str) -> None:
    core.redis.client.flushdb()
    response = api.get(path)
    assert (response.status_code, response.headers["Retry-After"]) == (503, "5")
    assert "CATALOG_REBUILDING" in response.get_data(as_text=True)
