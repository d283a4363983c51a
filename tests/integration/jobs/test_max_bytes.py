"""A selection is measured before it is copied, and refused if it is larger than `max_bytes`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from mirror.copying.cancellation import Cancellation
from mirror.errors import (
    QuotaExhausted,
    SelectionTooLarge,
)
from mirror.jobs.measure import SelectionMeter
from mirror.oci.tag_pattern import TagPattern
from mirror.records.job import JobOptions
from mirror.records.plans import plan_id_of
from mirror.records.rules import CopyOptions
from mirror.records.spec import CopySpec
from tests.integration.jobs.planning import (
    job_bytes,
    repository,
    with_tags,
)
from tests.support import images
from tests.support.fakes.docker_hub import PullLimit
from tests.support.harness import Harness, mark_built
from tests.support.servers import RcloneS3
from tests.support.stopped_clock import StoppedClock


@pytest.fixture
def s3_server(rclone_s3: RcloneS3) -> RcloneS3:
    """These tests are about the source and Redis. Any S3 server will do."""
    return rclone_s3


def measured(harness: Harness, *sources: str) -> int:
    return meter(harness).bytes_to_copy(copies(harness, *sources), Cancellation())


def meter(harness: Harness) -> SelectionMeter:
    core = harness.core
    return SelectionMeter(core.confirmer, core.resolver, core.runner.copies.copier)


def copies(harness: Harness, *sources: str) -> Iterator[list[CopySpec]]:
    return ([CopySpec.parse(f"{harness.registry.host}/{source}", "team/app:1")] for source in sources)


def test_a_selection_is_measured_with_each_missing_blob_once_and_nothing_is_written(harness: Harness) -> None:
    base, held = images.layer("base", 5000), images.layer("held", 3000)
    harness.registry.put(images.image(held), "team/app", "held")
    assert harness.mirror("team/app:held").state == "succeeded"
    tags = [f"team/app:{number}" for number in range(20)]
    for number, tag in enumerate(tags):
        harness.registry.put(images.image(base, held, images.layer(f"own-{number}", 100)), *tag.split(":"))
    before = harness.stored()
    assert measured(harness, "team/app:held") == 0
    found = measured(harness, *tags)
    assert harness.stored() == before
    job = harness.run_tasks(harness.submit_all(*((tag, None) for tag in tags)))
    assert (job.state, found) == ("succeeded", sum(job_bytes(harness, job)))


def test_a_selection_with_more_bytes_than_its_limit_is_refused_with_the_figures(harness: Harness) -> None:
    harness.registry.put(images.image(images.layer("a")), "team/app", "1")
    found, source = measured(harness, "team/app:1"), "registry.example.com/team/app"
    meter(harness).require_at_most(found, source, copies(harness, "team/app:1"), Cancellation())
    with pytest.raises(SelectionTooLarge, match=f"{source}.*{found} bytes.*'max_bytes' is {found - 1}"):
        meter(harness).require_at_most(found - 1, source, copies(harness, "team/app:1"), Cancellation())
    assert harness.stored() == []


def test_an_image_that_cannot_be_mirrored_counts_nothing_and_one_that_waits_raises(harness: Harness) -> None:
    times = StoppedClock(harness.redis)
    hub = PullLimit(4, window=600, clock=times)
    harness.registry.script(hub)
    for number in range(4):
        harness.registry.put(images.image(images.layer(f"own-{number}", 100)), "team/app", str(number))
    assert measured(harness, "team/app:missing", "team/app:0") > 0
    with pytest.raises(QuotaExhausted):
        measured(harness, *(f"team/app:{number}" for number in range(4)))
    times.advance(601)
    assert measured(harness, *(f"team/app:{number}" for number in range(4))) > 0
    assert (hub.windows, hub.used, hub.refused) == (2, 1, 0)


def test_max_bytes_refuses_a_selection_before_anything_is_copied(harness: Harness) -> None:
    with_tags(harness, "1", "2", "3")
    plan = harness.core.plans.read(plan_id_of(repository(harness, tags={}).id))
    needed = plan.totals.bytes_to_copy
    job = repository(harness, tags={"max_bytes": needed - 1}, options=JobOptions())
    assert job.error is not None
    assert (job.state, job.error.code, job.images.total) == ("failed", "SELECTION_TOO_LARGE", 1)
    assert f"has {needed} bytes to copy, but 'max_bytes' is {needed - 1}" in job.error.message
    assert harness.stored() == []
    job = repository(harness, tags={"max_bytes": needed}, options=JobOptions())
    assert (job.state, job.images.succeeded, sum(job_bytes(harness, job))) == ("succeeded", 3, needed)


def test_max_bytes_counts_what_is_missing_and_unchanged_tags_cost_a_head_each(harness: Harness) -> None:
    mark_built(harness.redis)
    with_tags(harness, "1", "2", "3")
    assert repository(harness, tags={}, options=JobOptions()).state == "succeeded"
    harness.registry.requests.clear()
    job = repository(harness, tags={"max_bytes": 0}, options=JobOptions())
    assert (job.state, job.images.unchanged) == ("succeeded", 3)
    assert {request.method for request in harness.registry.log("api", path="/manifests/")} == {"HEAD"}


def test_a_selection_that_waits_for_a_pull_limit_is_measured_to_its_end_without_reading_twice(harness: Harness) -> None:
    times = StoppedClock(harness.redis)
    hub = PullLimit(2, window=600, clock=times)
    with_tags(harness, "1", "2", "3")
    harness.registry.script(hub)
    job = repository(harness, tags={"max_bytes": 10**9}, options=JobOptions())
    assert job.waiting_for is not None
    assert (job.waiting_for.reason, hub.used) == ("quota", 2)
    times.advance(601)
    harness.reconcile()
    job = harness.run_work_horses(job)
    assert (job.state, job.images.succeeded) == ("succeeded", 3)
    assert (hub.windows, hub.used, hub.refused) == (2, 1, 0)


def test_max_bytes_counts_no_image_whose_targets_all_stay_as_they_are(harness: Harness) -> None:
    with_tags(harness, "1", "2")
    assert repository(harness, tags={}, options=JobOptions()).state == "succeeded"
    for tag in ("1", "2"):
        harness.registry.put(images.image(images.layer(f"moved {tag}")), "team/app", tag)
    sources = ("team/app:1", "team/app:2")
    moved = measured(harness, *sources)
    assert moved > 0
    target = f"{harness.registry.host.replace(':', '_')}/team/app"
    reported = CopyOptions(on_move_upstream="report")
    for options in (CopyOptions(overwrite="never"), CopyOptions(immutable=(TagPattern("glob", "*"),)), reported):
        kept = [CopySpec.parse(f"{harness.registry.host}/team/app:{tag}", f"{target}:{tag}") for tag in ("1", "2")]
        new = [CopySpec.parse(f"{harness.registry.host}/team/app:{tag}", f"other/app:{tag}") for tag in ("1", "2")]
        kept, new = ([replace(copy, options=options) for copy in copies] for copies in (kept, new))
        assert meter(harness).bytes_to_copy(([copy] for copy in kept), Cancellation()) == 0
        assert meter(harness).bytes_to_copy(zip(kept, new, strict=True), Cancellation()) == moved
