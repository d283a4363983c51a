"""The repositories that a request may mean: by a full name, by ``?ns=``, and without a registry as dockerd asks."""

from __future__ import annotations

import pytest
from flask.testing import FlaskClient

from mirror.errors import InvalidReference
from mirror.wiring import Core
from service.v2.names import candidates
from tests.api.seeded_catalog import SeededCatalog
from tests.support import images

LONGEST = "a" * 255


@pytest.mark.parametrize(
    ("repository", "namespace", "expected"),
    [
        ("library/redis", "docker.io", ["docker.io/library/redis"]),
        ("library/redis", "index.docker.io", ["docker.io/library/redis"]),
        ("library/redis", "registry-1.docker.io:443", ["docker.io/library/redis"]),
        ("team/app", "harbor.corp:5000", ["harbor.corp_5000/team/app"]),
        ("team/app", "Quay.IO.", ["quay.io/team/app"]),
        ("docker.io/library/redis", "docker.io", ["docker.io/library/redis"]),
        ("quay.io/team/app", "docker.io", ["docker.io/quay.io/team/app"]),
        ("library/redis", None, ["library/redis", "docker.io/library/redis"]),
        ("redis", None, ["redis", "docker.io/redis"]),
        ("docker.io/library/redis", None, ["docker.io/library/redis"]),
        ("harbor.corp_5000/team/app", None, ["harbor.corp_5000/team/app"]),
        (LONGEST, None, [LONGEST]),
    ],
)
def test_what_a_request_may_mean(repository: str, namespace: str | None, expected: list[str]) -> None:
    assert list(candidates(repository, namespace, "docker.io")) == expected


def test_dockerd_may_have_another_registry_or_none() -> None:
    assert candidates("team/app", None, "harbor.corp:5000") == ("team/app", "harbor.corp_5000/team/app")
    assert candidates("team/app", None, None) == ("team/app",)


@pytest.mark.parametrize("namespace", ["docker", "a b", "../etc", "[::1]:5000", "docker.io/library", "host:0"])
def test_a_namespace_that_is_no_registry_is_refused(namespace: str, anyone: FlaskClient) -> None:
    with pytest.raises(InvalidReference):
        candidates("library/redis", namespace, "docker.io")
    response = anyone.get("/v2/library/redis/manifests/7", query_string={"ns": namespace})
    assert (response.status_code, response.get_json()["errors"][0]["code"]) == (400, "NAME_INVALID")


def test_a_name_that_is_too_long_below_its_registry_is_refused() -> None:
    with pytest.raises(InvalidReference, match="255"):
        candidates(LONGEST, "docker.io", None)


def test_containerd_names_the_registry_in_the_query(anyone: FlaskClient, mirror: SeededCatalog) -> None:
    hub, ours = images.image(images.layer("hub")), images.image(images.layer("ours"))
    mirror.hold(hub, "docker.io/library/redis:7")
    mirror.hold(ours, "library/redis:7")
    mirror.hold(ours, "library/redis:ours")
    layer = next(iter(hub.blobs))
    for reference in ("7", str(hub.digest)):
        for method in ("GET", "HEAD"):
            response = anyone.open(f"/v2/library/redis/manifests/{reference}?ns=docker.io", method=method)
            assert response.headers["Docker-Content-Digest"] == str(hub.digest)
            assert response.headers["OCI-Namespace"] == "docker.io"
    response = anyone.get(f"/v2/library/redis/blobs/{layer}?ns=docker.io")
    assert (response.status_code, response.headers["OCI-Namespace"]) == (200, "docker.io")
    response = anyone.get("/v2/library/redis/tags/list?ns=docker.io&n=1")
    assert response.get_json() == {"name": "library/redis", "tags": ["7"]}
    assert anyone.get("/v2/library/redis/manifests/ours?ns=docker.io").status_code == 404
    assert anyone.get("/v2/library/redis/manifests/7?ns=quay.io").status_code == 404
    assert anyone.get(f"/v2/library/redis/blobs/{layer}?ns=quay.io").status_code == 404
    assert anyone.get("/v2/library/redis/manifests/7?ns=docker.io&ns=quay.io").status_code == 400


def test_the_next_page_of_tags_is_of_the_same_registry(anyone: FlaskClient, mirror: SeededCatalog) -> None:
    for tag in ("1", "2", "3"):
        mirror.hold(images.image(images.layer("hub")), f"docker.io/library/redis:{tag}")
    path, tags = "/v2/library/redis/tags/list?ns=docker.io&n=2", []
    while path:
        response = anyone.get(path)
        tags += response.get_json()["tags"]
        path = response.headers.get("Link", "").partition("<")[2].partition(">")[0]
    assert tags == ["1", "2", "3"]


def test_dockerd_finds_docker_hub_after_our_own_repositories(anyone: FlaskClient, mirror: SeededCatalog) -> None:
    hub, ours = images.image(images.layer("hub")), images.image(images.layer("ours"))
    mirror.hold(hub, "docker.io/library/redis:7")
    mirror.hold(hub, "docker.io/library/redis:8")
    layer = next(iter(hub.blobs))

    def digest(path: str) -> str | None:
        return anyone.get(f"/v2/library/redis/{path}").headers.get("Docker-Content-Digest")

    for _ in range(2):  # the second time Redis knows that our own repository has no such tag
        assert digest("manifests/7") == digest(f"manifests/{hub.digest}") == str(hub.digest)
    assert digest(f"blobs/{layer}") == str(layer)
    assert anyone.get("/v2/library/redis/tags/list").get_json()["tags"] == ["7", "8"]
    mirror.hold(ours, "library/redis:7")
    assert digest("manifests/7") == str(ours.digest)
    assert digest("manifests/8") == digest(f"manifests/{hub.digest}") == str(hub.digest)
    assert digest(f"blobs/{layer}") == str(layer)
    assert "OCI-Namespace" not in anyone.get("/v2/library/redis/manifests/7").headers


def test_a_name_of_another_registry_is_never_completed(anyone: FlaskClient, mirror: SeededCatalog, core: Core) -> None:
    mirror.hold(images.image(images.layer("a")), "docker.io/quay.io/team/app:1")
    assert anyone.get("/v2/quay.io/team/app/manifests/1").status_code == 404
    assert core.settings.dockerd_registry == "docker.io"
