"""Which manifests a job with rules for platforms copies, against a scripted registry, a real Valkey and a real S3."""

from __future__ import annotations

import json

import pytest

from mirror.records.rules import PlatformMode
from tests.conftest import on_both_s3_servers, requested_s3_server
from tests.integration.jobs.platform_jobs import (
    AMD64,
    ARM,
    ARM64,
    ATTESTATION,
    INDEX,
    TARGET,
    asked,
    entry,
    rebuilt,
    revisions,
    rules,
    run,
    submitted,
    with_index,
)
from tests.support import images
from tests.support.fakes.docker_hub import PullLimit
from tests.support.harness import Harness
from tests.support.images import TestImage
from tests.support.servers import S3Server


@pytest.fixture
def s3_server(request: pytest.FixtureRequest) -> S3Server:
    """Most tests are about rules and the source. Those about the bucket are marked."""
    return requested_s3_server(request)


@pytest.fixture
def mirror(harness: Harness) -> Harness:
    return with_index(harness)


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


def test_only_chosen_platforms_cost_pull_quota(mirror: Harness) -> None:
    hub = PullLimit(2, window=3600)
    mirror.registry.script(hub)
    assert run(mirror, "sparse", "linux/arm64").state == "succeeded"
    assert (hub.used, hub.refused) == (2, 0)
    mirror.registry.put(INDEX, "team/app", "2")
    assert run(mirror, "rewrite", "linux/arm64", source="team/app:2", target="team/app:2").state == "succeeded"
    assert (hub.used, hub.refused) == (2, 0)
