from __future__ import annotations

import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from mirror.oci.digest import Digest
from mirror.oci.local_image import LocalImage
from mirror.wiring import Core
from tests.api.seeded_catalog import SeededCatalog
from tests.support import images
from tests.support.images import TestImage

ONE = images.image(images.layer("one"))
TWO = images.image(images.layer("two"))
NEVER = f"sha256:{'0' * 64}"


@pytest.fixture(autouse=True)
def held(mirror: SeededCatalog) -> None:
    mirror.hold(ONE, "team/app:1")
    mirror.hold(TWO, "team/app:2")


def shown(core: Core, name: str) -> Digest:
    return core.reader.digest(LocalImage.parse(name))


def refused(response: TestResponse) -> tuple[int, str]:
    assert response.content_type == "application/problem+json"
    return response.status_code, response.get_json()["code"]


def test_a_new_tag_is_201_and_readable_at_once(api: FlaskClient, core: Core) -> None:
    response = api.put("/v1/images/team/redis:stable", json={"from": "team/app:1"})
    assert response.status_code == 201
    assert response.headers["ETag"] == f'"{ONE.digest}"'
    assert response.headers["Location"] == "https://mirror.example:8443/v1/images/team/redis:stable"
    expected = {"repository": "team/redis", "tag": "stable", "digest": str(ONE.digest), "superseded_by": None}
    assert response.get_json() == expected
    assert shown(core, "team/redis:stable") == ONE.digest
    assert api.get("/v2/team/redis/manifests/stable").data == ONE.body


def test_moving_a_tag_is_200(api: FlaskClient, core: Core) -> None:
    assert api.put("/v1/images/team/app:1", json={"from": "team/app:2"}).status_code == 200
    assert shown(core, "team/app:1") == TWO.digest


def test_a_tag_is_pointed_at_a_digest_of_its_own_repository_only(api: FlaskClient, core: Core) -> None:
    assert api.put("/v1/images/team/app:new", json={"digest": str(TWO.digest)}).status_code == 201
    assert shown(core, "team/app:new") == TWO.digest
    elsewhere = api.put("/v1/images/team/other:new", json={"digest": str(TWO.digest)})
    assert refused(elsewhere) == (404, "MANIFEST_UNKNOWN")


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"If-Match": f'"{ONE.digest}"'}, 200),
        ({"If-Match": f'"{NEVER}", "{ONE.digest}"'}, 200),
        ({"If-Match": "*"}, 200),
        ({"If-Match": f'"{TWO.digest}"'}, 412),
        ({"If-Match": f'W/"{ONE.digest}"'}, 412),
        ({"If-Match": ""}, 412),
        ({"If-None-Match": "*"}, 412),
        ({"If-None-Match": f'"{ONE.digest}"'}, 412),
        ({"If-None-Match": f'"{TWO.digest}"'}, 200),
    ],
)
def test_a_tag_that_exists_moves_only_if_the_client_means_it(
    api: FlaskClient, core: Core, headers: dict[str, str], status: int
) -> None:
    response = api.put("/v1/images/team/app:1", json={"from": "team/app:2"}, headers=headers)
    assert response.status_code == status, response.get_json()
    assert shown(core, "team/app:1") == (TWO if status == 200 else ONE).digest


@pytest.mark.parametrize(("headers", "status"), [({"If-None-Match": "*"}, 201), ({"If-Match": "*"}, 412)])
def test_a_tag_that_does_not_exist_is_made_only_if_the_client_means_it(
    api: FlaskClient, headers: dict[str, str], status: int
) -> None:
    assert api.put("/v1/images/team/app:3", json={"from": "team/app:2"}, headers=headers).status_code == status


REFUSALS: list[tuple[str, dict[str, object], int, str]] = [
    ("team/app:3", {"from": "team/app:9"}, 404, "MANIFEST_UNKNOWN"),
    ("team/app:3", {"from": f"team/app@{NEVER}"}, 404, "MANIFEST_UNKNOWN"),
    ("team/app:3", {"from": "team/app"}, 422, "NAME_INVALID"),
    ("team/app:3", {"from": "Team/App:1"}, 422, "NAME_INVALID"),
    ("team/app:3", {"digest": "sha256:12"}, 422, "DIGEST_INVALID"),
    ("team/app:3", {}, 422, "REQUEST_INVALID"),
    ("team/app:3", {"from": "team/app:1", "digest": NEVER}, 422, "REQUEST_INVALID"),
    ("team/app:3", {"from": "team/app:1", "force": True}, 422, "REQUEST_INVALID"),
    ("team/app:3?force=1", {"from": "team/app:1"}, 422, "REQUEST_INVALID"),
    (f"team/app@{ONE.digest}", {"from": "team/app:1"}, 422, "NAME_INVALID"),
    ("team/app", {"from": "team/app:1"}, 422, "NAME_INVALID"),
    ("team/app:.x", {"from": "team/app:1"}, 422, "TAG_INVALID"),
    ("a" * 250 + ":1", {"from": "team/app:1"}, 422, "NAME_TOO_LONG"),
]


def test_what_cannot_be_tagged_is_refused(api: FlaskClient) -> None:
    for target, body, status, code in REFUSALS:
        assert refused(api.put(f"/v1/images/{target}", json=body)) == (status, code), target


def test_nobody_passes_an_image_off_as_a_registrys(api: FlaskClient, mirror: SeededCatalog) -> None:
    mirror.hold(ONE, "docker.io:evil")  # a repository that is only called like the registry
    mirror.hold(ONE, "docker.io/library/redis:7")
    for source in ("team/app:1", "docker.io:evil"):
        response = api.put("/v1/images/docker.io/library/redis:8", json={"from": source})
        assert refused(response) == (422, "TARGET_RESERVED")
    response = api.put("/v1/images/docker.io/library/redis:8", json={"from": "docker.io/library/redis:7"})
    assert response.status_code == 201


def test_nobody_passes_an_image_off_as_an_official_one(api: FlaskClient, mirror: SeededCatalog) -> None:
    for held in ("docker.io/evil/redis:7", "docker.io/library/redis:7", "library/old:7"):
        mirror.hold(ONE, held)
    by_digest = f"docker.io/evil/redis@{ONE.digest}"
    for target in ("docker.io/library/redis:8", "docker.io/redis:8", "library/redis:8"):
        for source in ("docker.io/evil/redis:7", by_digest, "team/app:1", "library/old:7"):
            response = api.put(f"/v1/images/{target}", json={"from": source})
            assert refused(response) == (422, "TARGET_RESERVED"), (target, source)
        response = api.put(f"/v1/images/{target}", json={"from": "docker.io/library/redis:7"})
        assert response.status_code == 201, target
    for body in ({"digest": str(ONE.digest)}, {"from": "library/old:7"}):
        assert api.put("/v1/images/library/old:8", json=body).status_code in (200, 201)


def test_a_deleted_tag_is_gone_and_its_image_is_not(api: FlaskClient) -> None:
    assert api.delete("/v1/images/team/app:1").status_code == 204
    assert refused(api.get("/v1/images/team/app:1")) == (404, "MANIFEST_UNKNOWN")
    assert api.get("/v2/team/app/tags/list").get_json()["tags"] == ["2"]
    assert api.get(f"/v2/team/app/manifests/{ONE.digest}").data == ONE.body
    assert refused(api.delete("/v1/images/team/app:1")) == (404, "MANIFEST_UNKNOWN")


@pytest.mark.parametrize(
    ("headers", "status"), [({"If-Match": f'"{TWO.digest}"'}, 412), ({"If-Match": f'"{ONE.digest}"'}, 204)]
)
def test_a_tag_is_deleted_only_if_it_shows_what_the_client_means(
    api: FlaskClient, headers: dict[str, str], status: int
) -> None:
    assert api.delete("/v1/images/team/app:1", headers=headers).status_code == status


def test_a_digest_that_a_tag_shows_is_not_let_go(api: FlaskClient) -> None:
    response = api.delete(f"/v1/images/team/app@{ONE.digest}")
    assert refused(response) == (409, "MANIFEST_IN_USE")
    assert "the tag '1'" in response.get_json()["detail"]


def test_a_kept_digest_is_let_go(api: FlaskClient, core: Core, mirror: SeededCatalog) -> None:
    kept: TestImage = images.image(images.layer("kept"))
    name = f"team/app@{kept.digest}"
    mirror.hold(kept, name)
    assert core.kept.is_kept("team/app", kept.digest)
    wrong = api.delete(f"/v1/images/{name}", headers={"If-Match": f'"{NEVER}"'})
    assert refused(wrong) == (412, "PRECONDITION_FAILED")
    assert api.delete(f"/v1/images/{name}").status_code == 204
    assert not core.kept.is_kept("team/app", kept.digest)
    assert api.get(f"/v1/images/{name}").status_code == 200  # until garbage collection


def test_a_digest_that_is_not_held_is_404(api: FlaskClient) -> None:
    assert refused(api.delete(f"/v1/images/team/app@{NEVER}")) == (404, "MANIFEST_UNKNOWN")


def test_a_name_without_tag_deletes_nothing(api: FlaskClient) -> None:
    assert refused(api.delete("/v1/images/team/app")) == (422, "NAME_INVALID")


def test_an_option_that_is_not_there_deletes_nothing(api: FlaskClient) -> None:
    assert refused(api.delete("/v1/images/team/app:1?dry_run=1")) == (422, "REQUEST_INVALID")
    assert api.get("/v1/images/team/app:1").status_code == 200
