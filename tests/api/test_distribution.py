from __future__ import annotations

import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from service.app import create_app
from service.core import Service
from tests.api.conftest import with_settings
from tests.api.seeded_catalog import SeededCatalog
from tests.support import images
from tests.support.images import TestImage

NEVER = f"sha256:{'0' * 64}"
CONTENT = bytes(range(256)) * 8
READ_ONLY = "this registry is read-only; copy images into it with POST /v1/jobs"


def code_of(response: TestResponse) -> str:
    """Of the one error, which has the form of the distribution spec."""
    assert response.content_type == "application/json"
    assert response.headers["Docker-Distribution-Api-Version"] == "registry/2.0"
    [error] = response.get_json()["errors"]
    assert set(error) == {"code", "message", "detail"}
    return str(error["code"])


@pytest.fixture
def index(mirror: SeededCatalog) -> TestImage:
    made = images.three_platforms("pulled")
    mirror.hold(made, "docker.io/library/redis:7")
    return made


@pytest.mark.parametrize("path", ["/v2/", "/v2"])
def test_the_api_is_found(anyone: FlaskClient, path: str) -> None:
    response = anyone.get(path)
    assert (response.status_code, response.get_json()) == (200, {})
    assert response.headers["Docker-Distribution-Api-Version"] == "registry/2.0"


def test_a_manifest_is_served_byte_for_byte_by_tag_and_by_digest(anyone: FlaskClient, index: TestImage) -> None:
    for reference in ("7", str(index.digest)):
        response = anyone.get(f"/v2/docker.io/library/redis/manifests/{reference}", headers={"Accept": "text/plain"})
        assert (response.status_code, response.data) == (200, index.body)
        assert response.content_type == index.media_type
        assert response.headers["Docker-Content-Digest"] == str(index.digest)
        assert response.headers["ETag"] == f'"{index.digest}"'


def test_every_child_of_an_index_is_served_by_its_digest(anyone: FlaskClient, index: TestImage) -> None:
    for digest, child in index.children.items():
        assert anyone.get(f"/v2/docker.io/library/redis/manifests/{digest}").data == child.body


@pytest.mark.parametrize("docker", [True, False])
def test_the_stored_type_is_the_answered_one(anyone: FlaskClient, mirror: SeededCatalog, docker: bool) -> None:
    made = images.image(images.layer("one"), docker=docker)
    mirror.hold(made, "team/app:1")
    assert anyone.get("/v2/team/app/manifests/1").content_type == made.media_type


@pytest.mark.parametrize("kind", ["manifests", "blobs"])
def test_head_answers_what_get_does_without_the_body(anyone: FlaskClient, index: TestImage, kind: str) -> None:
    blob = next(iter(index.all_blobs()))
    path = f"/v2/docker.io/library/redis/{kind}/{index.digest if kind == 'manifests' else blob}"
    get, head = anyone.get(path), anyone.head(path)
    assert (head.status_code, head.data) == (200, b"")
    assert get.headers["Content-Length"] == str(len(get.data))
    varying = {"X-Request-Id", "Date"}
    assert {k: v for k, v in head.headers if k not in varying} == {k: v for k, v in get.headers if k not in varying}


def test_an_unchanged_manifest_is_304(anyone: FlaskClient, index: TestImage) -> None:
    path = "/v2/docker.io/library/redis/manifests/7"
    response = anyone.get(path, headers={"If-None-Match": f'"{index.digest}"'})
    assert (response.status_code, response.data) == (304, b"")
    assert response.headers["Docker-Content-Digest"] == str(index.digest)
    assert anyone.get(path, headers={"If-None-Match": f'"{NEVER}"'}).status_code == 200


@pytest.mark.parametrize("repository", ["team/blobs/app", "manifests/manifests", "tags/list", "blobs/tags/list"])
def test_a_repository_may_be_called_like_a_part_of_the_api(
    anyone: FlaskClient, mirror: SeededCatalog, repository: str
) -> None:
    made = images.image(images.layer("one"))
    mirror.hold(made, f"{repository}:list")
    assert anyone.get(f"/v2/{repository}/manifests/list").data == made.body
    assert anyone.get(f"/v2/{repository}/tags/list").get_json() == {"name": repository, "tags": ["list"]}
    for digest, content in made.all_blobs().items():
        assert anyone.get(f"/v2/{repository}/blobs/{digest}").data == content


def test_a_blob_is_served_only_where_it_is_linked(anyone: FlaskClient, mirror: SeededCatalog) -> None:
    digest = mirror.link_blob("team/app", CONTENT)
    response = anyone.get(f"/v2/team/app/blobs/{digest}")
    assert (response.status_code, response.data) == (200, CONTENT)
    assert response.content_type == "application/octet-stream"
    assert response.headers["Docker-Content-Digest"] == str(digest)
    elsewhere = anyone.get(f"/v2/team/other/blobs/{digest}")
    assert (elsewhere.status_code, code_of(elsewhere)) == (404, "BLOB_UNKNOWN")


def test_an_empty_blob_is_served(anyone: FlaskClient, mirror: SeededCatalog) -> None:
    digest = mirror.link_blob("team/app", b"")
    response = anyone.get(f"/v2/team/app/blobs/{digest}")
    assert (response.status_code, response.data, response.headers["Content-Length"]) == (200, b"", "0")


RANGES = [
    ("bytes=0-0", 0, 0),
    ("bytes=10-19", 10, 19),
    ("bytes=2000-", 2000, 2047),
    ("bytes=-10", 2038, 2047),
    ("bytes=-9999", 0, 2047),
    ("bytes=2040-99999", 2040, 2047),
    ("bytes=0-", 0, 2047),
]


def test_a_range_is_answered_with_exactly_its_bytes(anyone: FlaskClient, mirror: SeededCatalog) -> None:
    digest = mirror.link_blob("team/app", CONTENT)
    for asked, first, last in RANGES:
        response = anyone.get(f"/v2/team/app/blobs/{digest}", headers={"Range": asked})
        assert response.status_code == 206
        assert response.data == CONTENT[first : last + 1]
        assert response.headers["Content-Range"] == f"bytes {first}-{last}/2048"
        assert response.headers["Content-Length"] == str(last - first + 1)


def test_several_ranges_and_another_unit_are_answered_with_the_whole(
    anyone: FlaskClient, mirror: SeededCatalog
) -> None:
    digest = mirror.link_blob("team/app", CONTENT)
    for asked in ("bytes=0-1,4-5", "lines=0-1"):
        response = anyone.get(f"/v2/team/app/blobs/{digest}", headers={"Range": asked})
        assert (response.status_code, response.data) == (200, CONTENT), asked


@pytest.mark.parametrize("asked", ["bytes=0-1", "bytes=9999-", "bytes=x"])
def test_head_ignores_a_range(anyone: FlaskClient, mirror: SeededCatalog, asked: str) -> None:
    """RFC 9110, 14.2: ranges are for GET."""
    digest = mirror.link_blob("team/app", CONTENT)
    response = anyone.head(f"/v2/team/app/blobs/{digest}", headers={"Range": asked})
    assert (response.status_code, response.headers["Content-Length"]) == (200, "2048")
    assert (response.headers["Accept-Ranges"], "Content-Range" in response.headers) == ("bytes", False)


@pytest.mark.parametrize("asked", ["bytes=0-1", "bytes=9999-", "bytes=x"])
def test_a_range_of_another_blob_is_answered_with_the_whole(
    anyone: FlaskClient, mirror: SeededCatalog, asked: str
) -> None:
    digest = mirror.link_blob("team/app", CONTENT)
    path = f"/v2/team/app/blobs/{digest}"
    for other in (f'"{NEVER}"', f'W/"{digest}"', "Sat, 28 Nov 2026 20:00:00 GMT"):
        response = anyone.get(path, headers={"Range": asked, "If-Range": other})
        assert (response.status_code, response.data) == (200, CONTENT), other
    same = anyone.get(path, headers={"Range": "bytes=0-1", "If-Range": f'"{digest}"'})
    assert (same.status_code, same.data) == (206, CONTENT[:2])


UNSATISFIABLE = [
    (CONTENT, "bytes=2048-"),
    (CONTENT, "bytes=99999-"),
    (CONTENT, "bytes=-0"),
    (CONTENT, "bytes=500-0"),
    (CONTENT, "bytes=x"),
    (CONTENT, "bytes=" + "9" * 5000),
    (CONTENT, "bytes=0-1,bytes=4-5"),
    (b"", "bytes=0-"),
]


@pytest.mark.parametrize(("content", "asked"), UNSATISFIABLE)
def test_a_range_without_a_byte_of_the_blob_is_416(
    anyone: FlaskClient, mirror: SeededCatalog, content: bytes, asked: str
) -> None:
    digest = mirror.link_blob("team/app", content)
    response = anyone.get(f"/v2/team/app/blobs/{digest}", headers={"Range": asked})
    assert (response.status_code, code_of(response)) == (416, "RANGE_INVALID")
    assert response.headers["Content-Range"] == f"bytes */{len(content)}"


def test_a_tag_list_is_paged_in_lexical_order(anyone: FlaskClient, mirror: SeededCatalog) -> None:
    made = images.image(images.layer("one"))
    for tag in ("2", "1.0-alpine", "1.0", "1"):
        mirror.hold(made, f"team/app:{tag}")
    whole = anyone.get("/v2/team/app/tags/list")
    assert whole.get_json() == {"name": "team/app", "tags": ["1", "1.0", "1.0-alpine", "2"]}
    assert "Link" not in whole.headers
    first = anyone.get("/v2/team/app/tags/list?n=3")
    assert first.get_json()["tags"] == ["1", "1.0", "1.0-alpine"]
    link = '</v2/team/app/tags/list?n=3&last=1.0-alpine>; rel="next"'
    assert first.headers["Link"] == link
    last = anyone.get("/v2/team/app/tags/list?n=3&last=1.0-alpine")
    assert (last.get_json()["tags"], "Link" in last.headers) == (["2"], False)
    assert anyone.get("/v2/team/app/tags/list?last=1.0").get_json()["tags"] == ["1.0-alpine", "2"]
    head = anyone.head("/v2/team/app/tags/list?n=3")
    assert (head.status_code, head.data, head.headers["Link"]) == (200, b"", link)
    assert head.headers["Content-Length"] == first.headers["Content-Length"]


def test_the_catalog_is_paged(anyone: FlaskClient, mirror: SeededCatalog) -> None:
    made = images.image(images.layer("one"))
    for repository in ("c", "a/b", "a"):
        mirror.hold(made, f"{repository}:1")
    assert anyone.get("/v2/_catalog").get_json() == {"repositories": ["a", "a/b", "c"]}
    first = anyone.get("/v2/_catalog?n=2")
    assert first.get_json() == {"repositories": ["a", "a/b"]}
    assert first.headers["Link"] == '</v2/_catalog?n=2&last=a/b>; rel="next"'
    assert anyone.get("/v2/_catalog?n=2&last=a/b").get_json() == {"repositories": ["c"]}


@pytest.mark.parametrize("path", ["/v2/_catalog", "/v2/docker.io/library/redis/tags/list"])
def test_the_page_size_is_a_number_and_bounded(anyone: FlaskClient, index: TestImage, path: str) -> None:
    for n in ("-1", "x", "", "1.5", "²"):
        response = anyone.get(path, query_string={"n": n})
        assert (response.status_code, code_of(response)) == (400, "PAGINATION_NUMBER_INVALID"), n
    for n in ("5000", "9" * 400):
        assert anyone.get(f"{path}?n={n}").get_json() == anyone.get(path).get_json()
    none = anyone.get(f"{path}?n=0")
    assert [] in none.get_json().values()
    assert "Link" not in none.headers


REFUSALS = [
    ("docker.io/library/redis/manifests/8", 404, "MANIFEST_UNKNOWN"),
    (f"docker.io/library/redis/manifests/{NEVER}", 404, "MANIFEST_UNKNOWN"),
    ("docker.io/library/redis/manifests/sha256:12", 400, "DIGEST_INVALID"),
    ("docker.io/library/redis/manifests/-x", 404, "TAG_INVALID"),
    ("docker.io/library/redis/manifests/.INVALID_MANIFEST_NAME", 404, "TAG_INVALID"),
    ("docker.io/library/redis/manifests/" + "a" * 129, 404, "TAG_INVALID"),
    ("docker.io/library/redis/manifests/%00", 404, "TAG_INVALID"),
    ("docker.io/library/redis/manifests/%ff", 404, "TAG_INVALID"),
    (f"docker.io/library/redis/blobs/{NEVER}", 404, "BLOB_UNKNOWN"),
    ("docker.io/library/redis/blobs/7", 400, "DIGEST_INVALID"),
    ("docker.io/library/redis/blobs/sha256:" + "A" * 64, 400, "DIGEST_INVALID"),
    ("none/tags/list", 404, "NAME_UNKNOWN"),
    ("Upper/manifests/7", 404, "NAME_INVALID"),
    (f"Upper/blobs/{NEVER}", 404, "NAME_INVALID"),
    ("Upper/tags/list", 404, "NAME_INVALID"),
    ("manifests/7", 404, "NAME_INVALID"),
    ("team//app/manifests/7", 404, "NAME_INVALID"),
    ("../app/manifests/7", 404, "NAME_INVALID"),
    ("a" * 300 + "/manifests/7", 404, "NAME_INVALID"),
    ("Upper/manifests/sha256:12", 404, "NAME_INVALID"),
    ("docker.io/library/redis", 404, "UNSUPPORTED"),
    ("docker.io/library/redis/tags/other", 404, "UNSUPPORTED"),
]


def test_what_is_not_there_is_named_as_the_spec_names_it(anyone: FlaskClient, index: TestImage) -> None:
    for path, status, code in REFUSALS:
        response = anyone.get(f"/v2/{path}")
        assert (response.status_code, code_of(response)) == (status, code), path
        head = anyone.head(f"/v2/{path}")
        assert (head.status_code, head.data, head.headers["Content-Length"]) == (status, b"", str(len(response.data)))


@pytest.mark.parametrize("path", ["", "team/app/blobs/uploads/", "team/app/manifests/7", f"team/app/blobs/{NEVER}"])
def test_writes_are_unsupported(anyone: FlaskClient, path: str) -> None:
    for method in ("POST", "PUT", "PATCH", "DELETE", "OPTIONS"):
        response = anyone.open(f"/v2/{path}", method=method)
        assert (response.status_code, code_of(response)) == (405, "UNSUPPORTED")
        assert response.get_json()["errors"][0]["message"] == READ_ONLY
        assert set(response.headers["Allow"].split(", ")) == {"GET", "HEAD"}


def test_blobs_are_redirected_to_a_url_that_reads_them(service: Service, mirror: SeededCatalog) -> None:
    """The URL itself is fetched in test_live.py, over a real socket."""
    digest = mirror.link_blob("team/app", CONTENT)
    client = create_app(with_settings(service, serve_redirect="auto")).test_client()
    response = client.get(f"/v2/team/app/blobs/{digest}")
    assert response.status_code == 307
    assert response.headers["Location"].startswith(f"{service.core.settings.s3_endpoint}/")
    head = client.head(f"/v2/team/app/blobs/{digest}")
    assert (head.status_code, head.headers["Content-Length"]) == (200, str(len(CONTENT)))
    missing = client.get(f"/v2/team/app/blobs/{NEVER}")
    assert (missing.status_code, code_of(missing)) == (404, "BLOB_UNKNOWN")
