from __future__ import annotations

import pytest

from mirror.catalog.entry import ImageEntry
from mirror.catalog.index import CatalogIndex
from mirror.catalog.registries import MOST_REGISTRIES, MirroredRegistries
from mirror.errors import CatalogRebuilding
from mirror.oci.digest import Digest
from mirror.redis import keys
from mirror.redis.client import Redis
from tests.support.harness import mark_built

DIGEST = str(Digest.of(b"any"))


@pytest.fixture
def registries(redis: Redis) -> MirroredRegistries:
    mark_built(redis)
    return MirroredRegistries(redis)


def hold(redis: Redis, *repositories: str) -> None:
    index = CatalogIndex(redis)
    for repository in repositories:
        index.put(ImageEntry(repository, "1", DIGEST, "application/vnd.oci.image.manifest.v1+json", 10, ()), {})


def test_registries_are_the_first_components_that_look_like_a_host(
    redis: Redis, registries: MirroredRegistries
) -> None:
    hold(redis, "docker.io/library/redis", "docker.io/library/alpine", "quay.io/a/b", "harbor.corp_5000/team/app")
    hold(redis, "team/app", "redis", "localhost/x", "docker.io", "quay.io0/x", "index.docker.io/x", "a.b_c/x")
    assert registries.read() == (("docker.io", "harbor.corp:5000", "localhost", "quay.io", "quay.io0"), True)


def test_an_empty_mirror_has_no_registries(registries: MirroredRegistries) -> None:
    assert registries.read() == ((), True)


def test_lists_are_refused_until_the_index_is_built(redis: Redis) -> None:
    with pytest.raises(CatalogRebuilding):
        MirroredRegistries(redis).read()


@pytest.fixture
def many(redis: Redis, registries: MirroredRegistries) -> Redis:
    """2 000 repositories of one registry, and 1 500 names without a registry."""
    names = [f"docker.io/library/{number}" for number in range(2000)] + [f"team{number}/app" for number in range(1500)]
    redis.call("ZADD", keys.INDEX_REPOSITORIES, *[part for name in names for part in (0, name)])
    return redis


def test_the_cost_does_not_grow_with_the_repositories_of_a_registry(
    many: Redis, registries: MirroredRegistries
) -> None:
    many.call("ZADD", keys.INDEX_REPOSITORIES, 0, "zot.corp/app")
    many.call("CONFIG", "RESETSTAT")
    assert registries.read() == (("docker.io", "zot.corp"), True)
    stats = many.call("INFO", "commandstats")["cmdstat_zrangebylex"]
    assert stats["calls"] == 1 + 1500 + 1 + 1, "one for each first component, and one for the end"


def test_the_number_of_registries_is_bounded(redis: Redis, registries: MirroredRegistries) -> None:
    names = [f"registry{number:04}.corp/app" for number in range(MOST_REGISTRIES + 1)]
    redis.call("ZADD", keys.INDEX_REPOSITORIES, *[part for name in names for part in (0, name)])
    hosts, is_complete = registries.read()
    assert (len(hosts), is_complete) == (MOST_REGISTRIES, False)
    redis.call("ZREM", keys.INDEX_REPOSITORIES, names[0])
    assert registries.read().is_complete


def test_the_number_of_first_components_that_are_read_is_bounded(redis: Redis, registries: MirroredRegistries) -> None:
    names = [f"{number:05}" for number in range(10_500)]
    redis.call("ZADD", keys.INDEX_REPOSITORIES, *[part for name in names for part in (0, name)], 0, "quay.io/app")
    assert registries.read() == ((), False)
