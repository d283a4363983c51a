"""Jobs with rules for platforms, against a scripted registry, a real Valkey and a real S3."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from mirror.catalog.entry import ImageEntry
from mirror.catalog.tag_change import Precondition
from mirror.jobs.submit import ImageRequest
from mirror.locks.lease import Lease, Leases
from mirror.oci.digest import Digest
from mirror.oci.local_image import LocalImage
from mirror.oci.platform import PlatformPattern
from mirror.oci.reference import Reference
from mirror.oci.tag_pattern import TagPattern
from mirror.records.job import Job
from mirror.records.rules import CopyOptions, PlatformMode, PlatformRules, TagRules, TargetRule
from mirror.records.task import Task
from mirror.redis import keys
from mirror.storage import layout
from mirror.storage.provenance import ProvenanceStore
from tests.conftest import on_both_s3_servers, requested_s3_server
from tests.support import images
from tests.support.fakes.docker_hub import PullLimit
from tests.support.fakes.lists import tag_pages
from tests.support.harness import Harness, mark_built
from tests.support.images import TestImage
from tests.support.servers import S3Server

INDEX = images.with_attestation(
    images.three_platforms("chosen"), next(iter(images.three_platforms("chosen").children.values()))
)
AMD64, ARM64, ARM, ATTESTATION = INDEX.children.values()
TARGET = LocalImage("team/app", "1")
ALWAYS: Precondition = lambda _: True  # noqa: E731 - as a value


@pytest.fixture
def s3_server(request: pytest.FixtureRequest) -> S3Server:
    """Most tests are about rules and the source. Those about the bucket are marked."""
    return requested_s3_server(request)


@pytest.fixture
def mirror(harness: Harness) -> Harness:
    mark_built(harness.redis)
    harness.registry.put(INDEX, "team/app", "1")
    return harness


def rules(mode: PlatformMode, *only: str) -> PlatformRules:
    return PlatformRules(tuple(map(PlatformPattern.parse, only)), mode)


def submitted(harness: Harness, chosen: PlatformRules, target: str = "team/app:1", source: str = "team/app:1") -> Job:
    request = ImageRequest(f"{harness.registry.host}/{source}", target, options=CopyOptions(chosen))
    job, _ = harness.core.submitter.submit([request])
    return job


def run(
    harness: Harness, mode: PlatformMode, *only: str, target: str = "team/app:1", source: str = "team/app:1"
) -> Task:
    """Mirror with these rules. Return the task, which has ended."""
    job = harness.run_tasks(submitted(harness, rules(mode, *only), target, source))
    [task] = harness.jobs.tasks(job.id, 1)
    assert (job.digest, job.source_digest) == (task.digest, task.source_digest)
    return task


def asked(harness: Harness) -> list[str]:
    """Return the requests for manifests since the last call: HEAD or GET, and the tag or digest."""
    found = [f"{r.method} {r.path.rpartition('/')[2]}" for r in harness.registry.log("api", path="/manifests/")]
    harness.registry.requests.clear()
    return found


def entry(harness: Harness, tag: str = "1") -> ImageEntry:
    found = harness.core.index.entry("team/app", tag)
    assert found is not None
    return found


def revisions(harness: Harness, repository: str = "team/app") -> set[Digest]:
    parsed = map(layout.parse_revision_link, harness.stored())
    return {found[1] for found in parsed if found and found[0] == repository}


def rebuilt(harness: Harness) -> ImageEntry:
    harness.redis.call("FLUSHALL")
    assert harness.core.rebuilder.rebuild(lambda: True)
    return entry(harness)


def size(*manifests: TestImage) -> int:
    blobs = {digest: content for one in manifests for digest, content in one.blobs.items()}
    return sum(len(one.body) for one in manifests) + sum(map(len, blobs.values()))


@on_both_s3_servers
def test_sparse_copies_the_chosen_children_and_their_attestations_only(mirror: Harness) -> None:
    task = run(mirror, "sparse", "linux/amd64")
    assert (task.state, task.digest, task.source_digest) == ("succeeded", str(INDEX.digest), None)
    wanted = {INDEX.digest, AMD64.digest, ATTESTATION.digest}
    assert sorted(asked(mirror)) == sorted(["HEAD 1", *(f"GET {digest}" for digest in wanted)])
    assert revisions(mirror) == wanted
    listed = entry(mirror)
    assert (listed.platforms, listed.platform_rules) == (("linux/amd64",), "sparse:linux/amd64")
    assert listed.size == size(INDEX, AMD64, ATTESTATION)
    copied = sum(map(len, {**AMD64.blobs, **ATTESTATION.blobs}.values()))
    assert (task.bytes_total, task.bytes_copied) == (copied, copied)
    reasons = {blob.digest: blob.reason for blob in mirror.jobs.blobs_of([task.id])[0] if blob.state == "skipped"}
    assert reasons == {
        str(one.digest): f"the platforms mode 'sparse' leaves out {name}"
        for one, name in ((ARM64, "linux/arm64"), (ARM, "linux/arm/v7"))
    }
    for digest in {*ARM64.blobs, *ARM.blobs} - AMD64.blobs.keys():
        assert mirror.core.blobs.held(digest) is None


@on_both_s3_servers
def test_rewrite_shows_a_new_index_and_says_what_the_source_has(mirror: Harness) -> None:
    task = run(mirror, "rewrite", "linux/arm64", "linux/arm")
    held = mirror.core.reader.image(TARGET)
    assert (task.digest, task.source_digest) == (str(held.digest), str(INDEX.digest))
    listed = [one["digest"] for one in json.loads(held.root.body)["manifests"]]
    assert listed == [str(ARM64.digest), str(ARM.digest)]
    assert revisions(mirror) == {held.digest, ARM64.digest, ARM.digest}
    assert entry(mirror).source_digest == str(INDEX.digest)


@on_both_s3_servers
def test_single_shows_the_manifest_of_the_platform(mirror: Harness) -> None:
    task = run(mirror, "single", "linux/amd64")
    assert (task.digest, task.source_digest) == (str(AMD64.digest), str(INDEX.digest))
    assert mirror.core.reader.image(TARGET).root.body == AMD64.body
    assert revisions(mirror) == {AMD64.digest}
    assert entry(mirror).platforms == ("linux/amd64",)


MODES: list[tuple[PlatformMode, tuple[str, ...]]] = [
    ("all", ()),
    ("all", ("linux/amd64",)),
    ("sparse", ("linux/arm64", "linux/amd64")),
    ("rewrite", ("linux/arm64",)),
    ("rewrite", ("linux/arm64", "linux/amd64", "linux/arm")),
    ("single", ("linux/arm",)),
]


@pytest.mark.parametrize(("mode", "only"), MODES)
@pytest.mark.parametrize("after", ["nothing", "a rebuild", "an index that was lost"])
def test_an_unchanged_source_costs_one_head_in_every_mode(
    mirror: Harness, mode: PlatformMode, only: tuple[str, ...], after: str
) -> None:
    first = run(mirror, mode, *only)
    if after == "a rebuild":
        rebuilt(mirror)
    elif after == "an index that was lost":
        mirror.redis.call("FLUSHALL")
    mirror.registry.requests.clear()
    again = run(mirror, mode, *only)
    assert (again.unchanged, again.digest, again.source_digest) == (True, first.digest, first.source_digest)
    assert asked(mirror) == ["HEAD 1"]


@pytest.mark.parametrize(("mode", "only"), MODES)
def test_many_unchanged_tags_are_settled_together_in_every_mode(
    mirror: Harness, mode: PlatformMode, only: tuple[str, ...]
) -> None:
    tags = [f"{n}" for n in range(8)]
    requests = []
    for tag in tags:
        mirror.registry.put(INDEX, "team/app", tag)
        options = CopyOptions(rules(mode, *only))
        requests.append(ImageRequest(f"{mirror.registry.host}/team/app:{tag}", f"team/app:{tag}", options=options))
    for unchanged in (0, len(tags)):
        mirror.registry.requests.clear()
        job, _ = mirror.core.submitter.submit(requests)
        ended = mirror.run_work_horses(job)
        assert (ended.state, ended.images.unchanged) == ("succeeded", unchanged)
    assert sorted(asked(mirror)) == sorted(f"HEAD {tag}" for tag in tags)
    assert {task.source_digest or task.digest for task in mirror.jobs.tasks(job.id, len(tags))} == {str(INDEX.digest)}


CHANGES: list[tuple[tuple[PlatformMode, str], tuple[PlatformMode, str]]] = [
    (("sparse", "linux/amd64"), ("sparse", "linux/arm64")),
    (("sparse", "linux/amd64"), ("all", "linux/amd64")),
    (("sparse", "linux/amd64"), ("rewrite", "linux/amd64")),
    (("rewrite", "linux/amd64"), ("sparse", "linux/amd64")),
    (("rewrite", "linux/amd64"), ("single", "linux/amd64")),
    (("single", "linux/amd64"), ("single", "linux/arm64")),
    (("single", "linux/amd64"), ("all", "linux/amd64")),
]


@pytest.mark.parametrize(("before", "after"), CHANGES)
def test_changed_rules_are_noticed_and_copied(
    mirror: Harness, before: tuple[PlatformMode, str], after: tuple[PlatformMode, str]
) -> None:
    run(mirror, *before)
    task = run(mirror, *after)
    assert (task.state, task.unchanged) == ("succeeded", False)
    fresh = run(mirror, *after, target="fresh/app:1")
    assert (task.digest, task.source_digest) == (fresh.digest, fresh.source_digest)
    assert revisions(mirror, "fresh/app") <= revisions(mirror)
    assert run(mirror, *after).unchanged


def test_a_tag_that_is_held_whole_satisfies_a_sparse_request(mirror: Harness) -> None:
    run(mirror, "all")
    assert run(mirror, "sparse", "linux/arm64").unchanged
    assert entry(mirror).platforms == ("linux/amd64", "linux/arm/v7", "linux/arm64")


def test_what_a_whole_tag_does_not_have_is_unknown_and_not_unchanged(mirror: Harness) -> None:
    run(mirror, "all")
    task = run(mirror, "sparse", "linux/s390x")
    assert task.error
    assert (task.state, task.error.code) == ("failed", "PLATFORM_UNKNOWN")


@on_both_s3_servers
@pytest.mark.parametrize("mode", ["all", "sparse", "rewrite", "single"])
def test_a_platform_that_the_image_lacks_fails_and_leaves_nothing_behind(mirror: Harness, mode: PlatformMode) -> None:
    task = run(mirror, mode, "linux/s390x")
    assert task.error
    assert (task.state, task.error.code, task.error.retryable) == ("failed", "PLATFORM_UNKNOWN", False)
    assert "It has linux/amd64, linux/arm/v7, linux/arm64" in task.error.message
    assert mirror.stored() == []


@pytest.mark.parametrize("mode", ["all", "sparse", "rewrite", "single"])
def test_a_single_image_of_another_platform_is_skipped_and_its_target_stays(
    mirror: Harness, mode: PlatformMode
) -> None:
    run(mirror, "all")
    before = mirror.stored()
    mirror.registry.put(ARM64, "team/app", "1")
    job = mirror.run_tasks(submitted(mirror, rules(mode, "linux/amd64")))
    [task] = mirror.jobs.tasks(job.id, 1)
    assert (job.state, job.images.succeeded, job.images.skipped) == ("succeeded", 1, 1)
    assert task.skipped
    assert task.skipped.reason == "platform_not_wanted"
    assert "it is for linux/arm64 only. Wanted: linux/amd64" in task.skipped.message
    assert (task.digest, task.source_digest) == (None, str(ARM64.digest))
    assert mirror.stored() == before
    assert mirror.core.links.current("team/app", "1") == INDEX.digest


@pytest.mark.parametrize("mode", ["all", "sparse", "rewrite", "single"])
def test_a_single_image_that_matches_is_copied_as_it_is(mirror: Harness, mode: PlatformMode) -> None:
    mirror.registry.put(ARM64, "team/app", "1")
    for unchanged in (False, True):
        task = run(mirror, mode, "linux/arm64/v8")
        assert (task.digest, task.source_digest, task.unchanged) == (str(ARM64.digest), None, unchanged)
    assert rebuilt(mirror).platforms == ("linux/arm64",)


def test_an_artifact_is_copied_whatever_the_platforms(mirror: Harness) -> None:
    chart = images.artifact("application/vnd.cncf.helm.config.v1+json", b"a chart")
    mirror.registry.put(chart, "team/app", "1")
    for unchanged in (False, True):
        task = run(mirror, "sparse", "linux/amd64")
        assert (task.digest, task.unchanged) == (str(chart.digest), unchanged)


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


def test_an_image_kept_by_its_digest_may_be_sparse(mirror: Harness) -> None:
    source = f"team/app@{INDEX.digest}"
    target = f"{mirror.registry.host.replace(':', '_')}/{source}"

    def keep(chosen: PlatformRules) -> Task:
        request = ImageRequest(f"{mirror.registry.host}/{source}", None, options=CopyOptions(chosen))
        job, _ = mirror.core.submitter.submit([request])
        [task] = mirror.jobs.tasks(mirror.run_tasks(job).id, 1)
        assert task.state == "succeeded"
        return task

    assert not keep(rules("sparse", "linux/amd64")).unchanged
    assert keep(rules("sparse", "linux/amd64")).unchanged
    assert mirror.core.reader.image(LocalImage.parse(target)).platforms[0].architecture == "amd64"
    assert not keep(rules("all")).unchanged
    assert keep(rules("all")).unchanged


def test_a_source_cannot_claim_the_child_of_an_index_that_it_once_served(mirror: Harness) -> None:
    """The record of a single platform names the index as what its source served. It says nothing of the child."""
    run(mirror, "single", "linux/amd64")
    source, records = Reference.parse(f"{mirror.registry.host}/team/app:1"), ProvenanceStore(mirror.bucket)
    assert records.image("team/app", AMD64.digest)
    assert not records.has_served(source, AMD64.digest, into="team/app")


def test_only_chosen_platforms_cost_pull_quota(mirror: Harness) -> None:
    hub = PullLimit(2, window=3600)
    mirror.registry.script(hub)
    assert run(mirror, "sparse", "linux/arm64").state == "succeeded"
    assert (hub.used, hub.refused) == (2, 0)
    mirror.registry.put(INDEX, "team/app", "2")
    assert run(mirror, "rewrite", "linux/arm64", source="team/app:2", target="team/app:2").state == "succeeded"
    assert (hub.used, hub.refused) == (2, 0)


@pytest.mark.parametrize(("mode", "only"), MODES)
def test_an_expansion_settles_unchanged_tags_in_every_mode(
    mirror: Harness, mode: PlatformMode, only: tuple[str, ...]
) -> None:
    tags = [f"{n}" for n in range(3)]
    for tag in tags:
        mirror.registry.put(INDEX, "team/many", tag)
    mirror.registry.script(tag_pages(tags))
    source, target = f"{mirror.registry.host}/team/many", (TargetRule("many/app:{tag}"),)
    request = ImageRequest(source, target, TagRules(), CopyOptions(rules(mode, *only)))
    for unchanged in (0, len(tags)):
        mirror.registry.requests.clear()
        job, _ = mirror.core.submitter.submit([request])
        ended = mirror.run_work_horses(job)
        assert (ended.state, ended.images.total, ended.images.unchanged) == ("succeeded", len(tags), unchanged)
    assert sorted(asked(mirror)) == [f"HEAD {tag}" for tag in tags]


@pytest.mark.parametrize("mode", ["rewrite", "single"])
def test_an_immutable_tag_is_compared_by_the_digest_of_its_source(mirror: Harness, mode: PlatformMode) -> None:
    def followed(platform: str) -> Task:
        options = CopyOptions(rules(mode, platform), immutable=(TagPattern("exact", "1"),))
        request = ImageRequest(f"{mirror.registry.host}/team/app:1", "team/app:1", options=options)
        job, _ = mirror.core.submitter.submit([request])
        [task] = mirror.jobs.tasks(mirror.run_tasks(job).id, 1)
        return task

    assert followed("linux/amd64").state == "succeeded"
    assert followed("linux/amd64").unchanged
    other_rules = followed("linux/arm64")
    mirror.registry.put(images.three_platforms("moved"), "team/app", "1")
    moved = followed("linux/amd64")
    for task in (other_rules, moved):
        assert task.error
        assert (task.state, task.error.code) == ("failed", "TAG_DRIFTED")
