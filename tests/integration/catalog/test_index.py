from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from mirror.catalog.entry import ImageEntry, RepositoryEntry
from mirror.catalog.index import CatalogIndex
from mirror.errors import CatalogRebuilding, RepositoryNotHeld
from mirror.oci.digest import Digest
from mirror.redis.client import Redis
from tests.support.harness import mark_built

BASE, ONE, TWO = (Digest.of(name) for name in (b"base", b"one", b"two"))


@pytest.fixture
def index(redis_url: str) -> Iterator[CatalogIndex]:
    redis = Redis.connect(redis_url)
    built = CatalogIndex(redis)
    mark_built(redis)
    yield built
    redis.close()


def entry(repository: str, tag: str, **fields: Any) -> ImageEntry:
    return ImageEntry(
        repository, tag, str(ONE), "application/vnd.oci.image.manifest.v1+json", 10, ("linux/amd64",), **fields
    )


def test_tags_are_in_lexical_order_and_paged(index: CatalogIndex) -> None:
    for tag in ("1.0", "1.0-alpine", "2", "1.0_x", "10"):
        index.put(entry("team/app", tag), {})
    index.put(entry("team/app2", "0"), {})
    assert index.tags("team/app", limit=2) == (["1.0", "1.0-alpine"], "1.0-alpine")
    assert index.tags("team/app", limit=9, after="1.0-alpine") == (["1.0_x", "10", "2"], None)
    assert index.tags("team/app", limit=0) == ([], None)


def test_a_repository_counts_a_shared_blob_once_and_drops_unused_blobs(index: CatalogIndex) -> None:
    index.put(entry("team/app", "1"), {BASE: 100, ONE: 5})
    index.put(entry("team/app", "2"), {BASE: 100, TWO: 2**40})
    assert index.repositories(limit=5) == ([RepositoryEntry("team/app", 2, 105 + 2**40)], None)
    index.put(entry("team/app", "2"), {ONE: 5})
    assert index.repositories(limit=5) == ([RepositoryEntry("team/app", 2, 105)], None)
    index.remove("team/app", "1")
    assert index.repositories(limit=5) == ([RepositoryEntry("team/app", 1, 5)], None)
    index.remove("team/app", "2")
    assert index.repositories(limit=5) == ([], None)
    with pytest.raises(RepositoryNotHeld):
        index.tags("team/app", limit=5)


def test_putting_and_removing_may_be_repeated(index: CatalogIndex) -> None:
    for _ in range(2):
        index.put(entry("team/app", "1"), {BASE: 100})
    assert index.repositories(limit=5) == ([RepositoryEntry("team/app", 1, 100)], None)
    for _ in range(2):
        index.remove("team/app", "1")
    assert index.repositories(limit=5) == ([], None)


def test_images_are_filtered_and_paged_without_gaps(index: CatalogIndex) -> None:
    for n in range(25):
        index.put(entry("team/app", f"{n:02}", source=f"s{n % 2}"), {})
    odd: list[str] = []
    after = ""
    while True:
        page, more = index.images(limit=4, after=after, wanted=lambda e: e.source == "s1")
        odd += [found.tag for found in page]
        if more is None:
            break
        after = more
    assert odd == [f"{n:02}" for n in range(1, 25, 2)]


def test_a_list_of_one_repository_has_its_images_only(index: CatalogIndex) -> None:
    for repository in ("team/app", "team/app-two", "team"):
        index.put(entry(repository, "1"), {})
    page, more = index.images(limit=10, repository="team/app", wanted=lambda _: True)
    assert ([found.repository for found in page], more) == (["team/app"], None)


def test_an_entry_reads_as_it_was_put(index: CatalogIndex) -> None:
    put = entry(
        "team/app", "1", source="docker.io/library/redis:7", mirrored_at="2026-01-01T00:00:00+00:00", job="job_1"
    )
    index.put(put, {BASE: 1})
    assert index.entry("team/app", "1") == put


def test_lists_are_refused_while_the_index_is_missing(redis_url: str) -> None:
    redis = Redis.connect(redis_url)
    empty = CatalogIndex(redis)
    with pytest.raises(CatalogRebuilding):
        empty.repositories(limit=5)
    with pytest.raises(CatalogRebuilding):
        empty.tags("team/app", limit=5)
    redis.close()
