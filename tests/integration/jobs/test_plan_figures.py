"""The figures of a plan: bytes, requests and pull quota are those of applying it."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from mirror.oci.descriptor import Descriptor
from mirror.oci.digest import Digest
from mirror.oci.platform import PlatformPattern
from mirror.records import states
from mirror.records.plans import plan_id_of
from mirror.records.rules import CopyOptions, PlatformMode, PlatformRules
from mirror.records.states import job_script
from tests.integration.jobs.planning import (
    applied,
    found,
    job_bytes,
    planned,
    shown,
    submitted,
)
from tests.integration.jobs.test_request_counts import LARGE, RANGES, seen
from tests.support import images
from tests.support.fakes.docker_hub import PullLimit
from tests.support.harness import Harness, mark_built
from tests.support.servers import RcloneS3
from tests.support.stopped_clock import StoppedClock


@pytest.fixture
def s3_server(rclone_s3: RcloneS3) -> RcloneS3:
    """These tests are about the source and Redis. Any S3 server will do."""
    return rclone_s3


def test_what_applying_sends_and_copies_is_what_the_plan_says(harness: Harness) -> None:
    shared = images.layer("shared")
    harness.registry.put(images.image(shared, images.layer("own")), "team/app", "held")
    assert harness.mirror("team/app:held").state == "succeeded"
    harness.registry.put(images.image(shared, images.layer("new"), LARGE), "team/app", "1")
    plan = planned(harness, "team/app:1")
    [image] = found(harness, plan)
    harness.registry.requests.clear()
    job = applied(harness, plan)
    assert job.state == "succeeded"
    requests = seen(harness.registry)
    assert requests == Counter(
        {("GET", "manifests", ""): 1, ("GET", "blobs", ""): 2, **{("GET", "blobs", asked): 1 for asked in RANGES}}
    )
    assert (image.requests, plan.totals.requests) == (requests.total(), requests.total())
    assert (image.bytes_to_copy, image.bytes_held) == (job.bytes.copied, job.bytes.skipped)
    assert image.bytes_held == len(shared.content)


def test_blobs_that_images_share_count_once_in_the_totals(harness: Harness) -> None:
    shared = images.layer("shared", 5000)
    own = [images.layer(f"own-{number}") for number in range(3)]
    for number, layer in enumerate(own):
        harness.registry.put(images.image(shared, layer), "team/app", str(number))
    plan = planned(harness, *(f"team/app:{number}" for number in range(3)))
    each = [image.bytes_to_copy for image in found(harness, plan)]
    assert sum(each) - plan.totals.bytes_to_copy == 2 * len(shared.content)
    assert plan.totals.is_bound is False
    harness.registry.requests.clear()
    job = applied(harness, plan)
    assert (job.state, sum(job_bytes(harness, job))) == ("succeeded", plan.totals.bytes_to_copy)
    assert seen(harness.registry).total() == plan.totals.requests


@pytest.mark.parametrize("kind", ["image", "index"])
def test_the_pull_quota_of_a_plan_is_what_it_and_its_job_cost_together(harness: Harness, kind: str) -> None:
    """The plan keeps the manifests, because each read counts. So applying it reads none of them again."""
    times = StoppedClock(harness.redis)
    hub = PullLimit(20, window=600, clock=times)
    harness.registry.script(hub)
    image = images.three_platforms("a") if kind == "index" else images.image(images.layer("a"))
    harness.registry.put(image, "team/app", "1")
    before = harness.stored()
    plan = planned(harness, "team/app:1")
    manifests = len(image.all_manifests())
    assert (plan.totals.pull_quota, hub.used) == (manifests, manifests)
    added = [key for key in harness.stored() if key not in before]
    assert [key for key in added if "/repositories/" in key] == []
    assert len([key for key in added if key.endswith("/data")]) == manifests
    harness.registry.requests.clear()
    assert applied(harness, plan).state == "succeeded"
    assert (hub.used, hub.refused) == (manifests, 0)
    assert seen(harness.registry).total() == plan.totals.requests == len(image.all_blobs())


def test_a_plan_that_meets_the_pull_limit_waits_and_goes_on(harness: Harness) -> None:
    times = StoppedClock(harness.redis)
    harness.registry.script(PullLimit(1, window=600, clock=times))
    for number in (1, 2):
        harness.registry.put(images.image(images.layer(f"own-{number}", 100)), "team/app", str(number))
    job = harness.run_tasks(submitted(harness, "team/app:1", "team/app:2"))
    assert job.waiting_for is not None
    assert (harness.core.plans.read(plan_id_of(job.id)).state, job.waiting_for.reason) == ("planning", "quota")
    times.advance(601)
    harness.reconcile()
    assert harness.run_tasks(job).state == "succeeded"
    totals = harness.core.plans.read(plan_id_of(job.id)).totals
    assert (totals.copy, totals.pull_quota) == (2, 2)


def test_foreign_layers_that_the_source_does_not_serve_are_not_counted(harness: Harness) -> None:
    ours = images.layer("ours")
    image = images.image(ours, foreign=[images.foreign_layer("windows")])
    harness.registry.put(image, "team/app", "1")
    plan = planned(harness, "team/app:1")
    harness.registry.requests.clear()
    job = applied(harness, plan)
    assert (job.state, plan.totals.bytes_to_copy) == ("succeeded", job.bytes.copied)
    assert seen(harness.registry).total() == plan.totals.requests


def test_a_plan_with_more_blobs_than_are_counted_says_that_its_totals_are_a_bound(harness: Harness) -> None:
    harness.registry.put(images.image(images.layer("a"), images.layer("b")), "team/app", "1")
    harness.registry.put(images.image(images.layer("c")), "team/app", "2")
    script = job_script("count_plan_blobs.lua").replace(f"local MOST_PLAN_BLOBS = {states.MOST_PLAN_BLOBS}", "")
    harness.core.plans._count_blobs = harness.redis.script(f"local MOST_PLAN_BLOBS = 4\n{script}")
    assert planned(harness, "team/app:1").totals.is_bound is False
    both = planned(harness, "team/app:1", "team/app:2")
    assert both.totals.is_bound is True
    assert both.totals.bytes_to_copy == sum(image.bytes_to_copy for image in found(harness, both))


def test_blobs_that_a_lost_worker_has_counted_make_the_totals_a_bound(harness: Harness) -> None:
    harness.registry.put(images.image(images.layer("first")), "team/app", "1")
    job = submitted(harness, "team/app:1")
    [task] = harness.jobs.tasks(job.id, 1)
    claim = harness.records.claim(task.id, 0)
    assert claim is not None
    other, void = (Descriptor("", Digest.of(content), 70) for content in (b"other", b"void"))
    for _ in range(2):  # a script that is sent twice counts once
        harness.core.plans.count_blobs(claim, [(other, 1)], [])
    harness.core.plans.count_blobs(replace(claim, fence=7), [(void, 1)], [])
    assert harness.core.plans.read(plan_id_of(job.id)).totals.bytes_to_copy == 70
    assert harness.core.claims.release(claim)
    harness.run_tasks(job)
    plan = harness.core.plans.read(plan_id_of(job.id))
    [image] = found(harness, plan)
    assert (plan.totals.bytes_to_copy, plan.totals.is_bound) == (70 + image.bytes_to_copy, True)


def platforms(mode: PlatformMode, *only: str) -> CopyOptions:
    return CopyOptions(platforms=PlatformRules(tuple(map(PlatformPattern.parse, only)), mode))


@pytest.mark.parametrize(
    "options",
    [
        platforms("sparse", "linux/amd64", "linux/arm64"),
        platforms("rewrite", "linux/amd64", "linux/arm64"),
        platforms("single", "linux/arm64"),
    ],
    ids=lambda options: options.platforms.mode,
)
@pytest.mark.parametrize("names_platforms", [True, False])
def test_a_plan_of_some_platforms_names_what_the_tag_will_show_and_what_that_costs(
    harness: Harness, options: CopyOptions, *, names_platforms: bool
) -> None:
    mark_built(harness.redis)
    names = ("linux/amd64", "linux/arm64", "linux/s390x")
    children = [images.image(images.layer(name), platform=name) for name in names]
    listed = names if names_platforms else (None,) * len(names)
    index = images.index(*zip(listed, children, strict=True))
    harness.registry.put(index, "team/app", "1")
    plan = planned(harness, "team/app:1", options=options)
    [image] = found(harness, plan)
    assert (image.action, image.digest) == ("copy", str(index.digest))
    assert (image.result_digest == image.digest) == (options.platforms.mode == "sparse")
    harness.registry.put(images.three_platforms("moved"), "team/app", "1")
    harness.registry.requests.clear()
    job = applied(harness, plan)
    assert (job.state, str(shown(harness, "1"))) == ("succeeded", image.result_digest)
    assert seen(harness.registry).total() == image.requests == plan.totals.requests
    assert job.bytes.copied == image.bytes_to_copy
    harness.registry.put(index, "team/app", "1")
    [again] = found(harness, planned(harness, "team/app:1", options=options))
    assert (again.action, again.digest, again.result_digest) == ("unchanged", image.digest, image.result_digest)


def test_an_image_for_no_wanted_platform_is_skipped_or_fails_in_the_plan(harness: Harness) -> None:
    harness.registry.put(images.image(images.layer("a"), platform="linux/arm64"), "team/app", "one")
    harness.registry.put(images.three_platforms("a"), "team/app", "three")
    options = platforms("sparse", "linux/riscv64")
    plan = planned(harness, "team/app:one", "team/app:three", options=options)
    one, three = found(harness, plan)
    assert (one.action, one.code, three.action, three.code) == (
        "skip",
        "platform_not_wanted",
        "fail",
        "PLATFORM_UNKNOWN",
    )
    assert (plan.state, plan.totals.skip, plan.totals.copy) == ("partial", 1, 0)
