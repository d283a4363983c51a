"""What the mirror records of an image with chosen platforms: after a rebuild, a retag or a second tag, too."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from mirror.catalog.tag_change import Precondition
from mirror.locks.lease import Lease, Leases
from mirror.oci.digest import Digest
from mirror.oci.local_image import LocalImage
from mirror.oci.reference import Reference
from mirror.records.rules import PlatformMode
from mirror.redis import keys
from mirror.storage.provenance import ProvenanceStore
from tests.conftest import on_both_s3_servers, requested_s3_server
from tests.integration.jobs.platform_jobs import (
    AMD64,
    ARM64,
    INDEX,
    MODES,
    TARGET,
    entry,
    rebuilt,
    revisions,
    run,
    with_index,
)
from tests.support import images
from tests.support.harness import Harness
from tests.support.servers import S3Server

ALWAYS: Precondition = lambda _: True  # noqa: E731 - as a value


@pytest.fixture
def s3_server(request: pytest.FixtureRequest) -> S3Server:
    """Most tests are about rules and the source. Those about the bucket are marked."""
    return requested_s3_server(request)


@pytest.fixture
def mirror(harness: Harness) -> Harness:
    return with_index(harness)


def test_platforms_that_only_configs_name_are_listed_after_a_rebuild_too(mirror: Harness) -> None:
    unnamed = images.index((None, AMD64), (None, ARM64))
    mirror.registry.put(unnamed, "team/app", "1")
    run(mirror, "sparse", "linux/arm64")
    assert revisions(mirror) == {unnamed.digest, ARM64.digest}
    assert entry(mirror).platforms == rebuilt(mirror).platforms == ("linux/arm64",)
    assert run(mirror, "sparse", "linux/arm64").unchanged


@on_both_s3_servers
@pytest.mark.parametrize(("mode", "only"), MODES[2:])
def test_a_rebuilt_index_lists_what_the_mirror_holds(
    mirror: Harness, mode: PlatformMode, only: tuple[str, ...]
) -> None:
    run(mirror, mode, *only)
    before = entry(mirror)
    assert rebuilt(mirror) == before


@pytest.mark.parametrize(("mode", "only"), MODES[2:])
def test_a_retagged_image_keeps_its_rules_and_its_source(
    mirror: Harness, mode: PlatformMode, only: tuple[str, ...]
) -> None:
    run(mirror, mode, *only)
    mirror.core.retagger.retag(LocalImage("team/app", "stable"), TARGET, allowed=ALWAYS)
    mirror.core.retagger.retag(LocalImage("prod/app", "1"), TARGET, allowed=ALWAYS)
    first, stable = entry(mirror), entry(mirror, "stable")
    promoted = mirror.core.index.entry("prod/app", "1")
    assert promoted
    for one in (stable, promoted):
        assert (one.digest, one.platforms, one.size) == (first.digest, first.platforms, first.size)
        assert (one.source_digest, one.platform_rules) == (first.source_digest, first.platform_rules)
    assert revisions(mirror, "prod/app") == revisions(mirror)


@on_both_s3_servers
def test_a_sparse_image_can_be_deleted(mirror: Harness) -> None:
    run(mirror, "sparse", "linux/amd64")
    mirror.core.deleter.delete(TARGET, allowed=ALWAYS)
    assert mirror.core.index.entry("team/app", "1") is None
    assert mirror.core.links.current("team/app", "1") is None


@on_both_s3_servers
def test_two_tags_of_one_index_know_all_children_that_their_repository_holds(mirror: Harness) -> None:
    mirror.registry.put(INDEX, "team/app", "2")
    run(mirror, "sparse", "linux/amd64")
    run(mirror, "sparse", "linux/arm64", target="team/app:2", source="team/app:2")
    second = entry(mirror, "2")
    assert second.platforms == ("linux/amd64", "linux/arm64")
    assert rebuilt(mirror).platforms == second.platforms
    for tag, platform in (("1", "linux/amd64"), ("2", "linux/arm64")):
        assert run(mirror, "sparse", platform, target=f"team/app:{tag}", source=f"team/app:{tag}").unchanged
    assert not run(mirror, "all").unchanged


@on_both_s3_servers
def test_two_tags_of_one_index_that_are_published_at_once_record_the_children_of_both(
    mirror: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second is published while the first has read the record and not yet written it: it must wait."""
    mirror.registry.put(INDEX, "team/app", "2")
    run(mirror, "sparse", "linux/arm/v7")
    read, take = ProvenanceStore.image, Leases.take
    may_continue, second_runs = threading.Event(), iter([True])

    def second() -> None:
        try:
            run(mirror, "sparse", "linux/arm64", target="team/app:2", source="team/app:2")
        finally:
            may_continue.set()

    with ThreadPoolExecutor(1) as pool:

        def read_slowly(
            store: ProvenanceStore, repository: str, digest: Digest, *, timeout: float | None = None
        ) -> Any:
            found = read(store, repository, digest, timeout=timeout)
            if timeout and next(second_runs, False):
                pool.submit(second)
                assert may_continue.wait(60)
            return found

        def take_noticed(leases: Leases, key: str, seconds: float) -> Lease | None:
            taken = take(leases, key, seconds)
            if taken is None and key == keys.image_record_lease("team/app", INDEX.digest):
                may_continue.set()
            return taken

        monkeypatch.setattr(ProvenanceStore, "image", read_slowly)
        monkeypatch.setattr(Leases, "take", take_noticed)
        run(mirror, "sparse", "linux/amd64")
    assert next(second_runs, None) is None
    record = ProvenanceStore(mirror.bucket).image("team/app", INDEX.digest)
    assert record
    assert record.summary
    assert record.summary.platforms == ("linux/amd64", "linux/arm/v7", "linux/arm64")


def test_a_source_cannot_claim_the_child_of_an_index_that_it_once_served(mirror: Harness) -> None:
    """The record of a single platform names the index as what its source served. It says nothing of the child."""
    run(mirror, "single", "linux/amd64")
    source, records = Reference.parse(f"{mirror.registry.host}/team/app:1"), ProvenanceStore(mirror.bucket)
    assert records.image("team/app", AMD64.digest)
    assert not records.has_served(source, AMD64.digest, into="team/app")
