"""How a target is parsed, its default, and which targets are reserved."""

from __future__ import annotations

import pytest

from mirror.errors import InvalidDigest, InvalidReference, InvalidTag, TargetReserved
from mirror.oci.digest import Digest
from mirror.oci.local_image import LocalImage, registry_component
from mirror.oci.reference import Reference
from tests.support.names import default_target

SHA256 = "sha256:" + "f" * 64


@pytest.mark.parametrize(
    ("text", "image"),
    [
        ("team/redis:7", LocalImage("team/redis", "7")),
        ("redis", LocalImage("redis")),
        ("docker.io/library/redis:7", LocalImage("docker.io/library/redis", "7")),
        ("127.0.0.1_5001/team/app:1", LocalImage("127.0.0.1_5001/team/app", "1")),
        (f"team/redis@{SHA256}", LocalImage("team/redis", None, Digest.parse(SHA256))),
    ],
)
def test_a_local_name_is_not_normalised(text: str, image: LocalImage) -> None:
    assert LocalImage.parse(text) == image
    assert str(image) == text


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "repository is missing"),
        (":7", "repository is missing"),
        ("Team/redis", "lower case"),
        ("team//redis", "empty component"),
        ("team/redis/", "empty component"),
        ("../redis", "components of a repository"),
        ("team/re dis", "components of a repository"),
        ("team/rédis", "components of a repository"),
        ("127.0.0.1:5001/team/app", "colon before its last component"),
        (f"team/redis:7@{SHA256}", "both a tag and a digest"),
        ("a" * 256, "more than 255 characters"),
    ],
)
def test_a_refused_target_says_what_is_wrong_with_it(text: str, reason: str) -> None:
    with pytest.raises(InvalidReference) as refused:
        LocalImage.parse(text)
    assert reason in refused.value.reason


def test_an_invalid_tag_or_digest_of_a_target_is_reported_as_such() -> None:
    with pytest.raises(InvalidTag):
        LocalImage.parse("team/redis:")
    with pytest.raises(InvalidDigest):
        LocalImage.parse("team/redis@sha256:12")


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("redis:7", "docker.io/library/redis:7"),
        ("gcr.io/project/image", "gcr.io/project/image:latest"),
        ("127.0.0.1:5001/team/app", "127.0.0.1_5001/team/app:latest"),
        ("harbor:443/team/app", "harbor_443/team/app:latest"),
        (f"redis@{SHA256}", f"docker.io/library/redis@{SHA256}"),
        (f"redis:7@{SHA256}", "docker.io/library/redis:7"),
    ],
)
def test_the_default_target_is_the_source_s_canonical_name(source: str, target: str) -> None:
    assert str(default_target(Reference.parse(source))) == target


@pytest.mark.parametrize(
    ("repository", "owner"),
    [
        ("docker.io/bitnami/redis", "docker.io"),
        ("index.docker.io/library/redis", "index.docker.io"),
        ("localhost/app", "localhost"),
        ("127.0.0.1_5001/app", "127.0.0.1_5001"),
        ("harbor_443/app", "harbor_443"),
        ("team_2/app", "team_2"),
        ("v1.0/app", "v1.0"),
    ],
)
def test_a_first_component_that_looks_like_a_host_belongs_to_that_host(repository: str, owner: str) -> None:
    assert LocalImage(repository).registry_component == owner
    LocalImage(repository).require_source(owner, "its own")
    with pytest.raises(TargetReserved, match=f"reserved for images from '{owner}'"):
        LocalImage(repository).require_source("evil.example", "evil.example/x:1")


@pytest.mark.parametrize(
    "repository", ["team/redis", "library", "library-x/redis", "team/library/redis", "team_a/app", "redis", "docker.io"]
)
def test_any_other_target_accepts_images_from_every_registry(repository: str) -> None:
    assert LocalImage(repository).registry_component is None
    LocalImage(repository).require_source("docker.io", "docker.io/library/redis:7")


@pytest.mark.parametrize(
    "repository",
    ["docker.io/library/redis", "docker.io/library/a/b", "docker.io/redis", "docker.io/library", "library/redis"],
)
def test_a_name_that_looks_official_accepts_only_official_images(repository: str) -> None:
    target = LocalImage(repository, "1")
    target.require_source("docker.io", "docker.io/library/redis:7")
    for source in ("docker.io/evil/redis:7", "docker.io/libraryx/redis:7", "docker.io/evil/library/redis:7"):
        with pytest.raises(TargetReserved, match=r"reserved for images from 'docker\.io/library'") as refused:
            target.require_source("docker.io", source)
        assert "team/redis" in refused.value.hint


@pytest.mark.parametrize("component", ["quay.io", "", "docker.io_80", "index.docker.io"])
def test_the_library_of_another_registry_is_not_official(component: str) -> None:
    for repository in ("docker.io/library/redis", "docker.io/redis", "library/redis"):
        with pytest.raises(TargetReserved):
            LocalImage(repository).require_source(component, f"{component}/library/redis:7")


@pytest.mark.parametrize("target", ["library/redis:8", "library/redis@" + SHA256])
def test_an_image_with_an_official_name_may_get_more_tags_there(target: str) -> None:
    LocalImage.parse(target).require_source("", "library/redis:7")
    with pytest.raises(TargetReserved):
        LocalImage.parse(target).require_source("", "library/redis-evil:7")


@pytest.mark.parametrize(
    "target", ["DOCKER.IO/library/redis", "docker.io:443/library/redis", "docker.io./library/redis"]
)
def test_no_other_spelling_of_docker_hub_is_a_target(target: str) -> None:
    with pytest.raises(InvalidReference):
        LocalImage.parse(target)


@pytest.mark.parametrize(
    "first", ["index.docker.io", "registry-1.docker.io", "registry.hub.docker.com", "docker.io_443"]
)
def test_a_target_under_another_name_of_docker_hub_accepts_no_image(first: str) -> None:
    """The registry of every source on Docker Hub is ``docker.io``."""
    source = Reference.parse(f"{first.replace('_', ':')}/library/redis:7")
    with pytest.raises(TargetReserved):
        LocalImage(f"{first}/library/redis", "7").require_source(registry_component(source.registry), str(source))


def test_a_port_is_spelled_with_an_underscore() -> None:
    assert registry_component("host:5000") == "host_5000"
    assert registry_component("docker.io") == "docker.io"
