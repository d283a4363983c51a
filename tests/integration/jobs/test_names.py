"""Targets of the images that a job chooses: claimed in the whole job, and left alone or followed as one image is."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

import pytest

from mirror.oci.tag_pattern import TagPattern
from mirror.records.job import Job
from mirror.records.job_request import ImageRequest
from mirror.records.rules import ALL_TAGS, CopyOptions, Overwrite, TargetRule
from mirror.records.spec import CopySpec
from mirror.records.task import Task
from mirror.storage import layout
from tests.integration.jobs.test_expand import expansion_of, serve
from tests.support import images
from tests.support.fakes.lists import catalog_pages
from tests.support.harness import Harness, mark_built
from tests.support.records import copy_of
from tests.support.servers import RcloneS3


@pytest.fixture
def s3_server(rclone_s3: RcloneS3) -> RcloneS3:
    """These tests are about the source and Redis. Any S3 server will do."""
    return rclone_s3


def requested(harness: Harness, source: str, target: str | Sequence[TargetRule], **fields: CopyOptions) -> ImageRequest:
    """Return a request for a wildcard, for all tags of a repository, or for one image."""
    tags = None if ":" in source else ALL_TAGS
    return ImageRequest(f"{harness.registry.host}/{source}", target, tags, **fields)


def mirrored(harness: Harness, *requests: ImageRequest) -> Job:
    return harness.run_work_horses(harness.core.submitter.submit(requests)[0])


def refused(harness: Harness, job: Job) -> list[str]:
    """Return the messages of the expansions that were refused for their targets."""
    tasks = [task for task in harness.jobs.tasks(job.id, 99) if task.error]
    assert {task.error.code for task in tasks if task.error} <= {"TARGET_REPEATED"}
    return [task.error.message for task in tasks if task.error]


def copies(harness: Harness, job: Job) -> list[Task]:
    return [task for task in harness.jobs.tasks(job.id, 99) if isinstance(task.spec, CopySpec)]


def test_two_repositories_of_one_job_with_one_target_are_refused_before_the_second_copies(harness: Harness) -> None:
    for repository in ("one/app", "two/app"):
        serve(harness, ["1.0", "2.0"], repository)
    requests = [requested(harness, source, "team/{name}") for source in ("one/app", "two/app")]
    job = mirrored(harness, *requests)
    [message] = refused(harness, job)
    assert "team/app:1.0" in message
    assert f"'{harness.registry.host}/one/app:1.0'" in message
    assert f"'{harness.registry.host}/two/app:1.0'" in message
    assert job.state == "partial"
    assert len(copies(harness, job)) == 2
    assert len({copy_of(task).source.repository for task in copies(harness, job)}) == 1


def test_two_repositories_below_a_wildcard_with_one_target_are_refused(harness: Harness) -> None:
    for repository in ("team/app", "team/old/app"):
        serve(harness, ["1.0"], repository)
    harness.registry.script(catalog_pages(["team/app", "team/old/app"]))
    job = mirrored(harness, requested(harness, "team/*", "mirrored/{name}"))
    assert len(refused(harness, job)) == 1
    assert len(copies(harness, job)) == 1


def test_an_expansion_may_not_take_the_target_of_an_image_in_the_same_job(harness: Harness) -> None:
    serve(harness, ["1.0"], "one/app")
    serve(harness, ["1.0"], "two/app")
    job = mirrored(
        harness, requested(harness, "one/app:1.0", "team/app:1.0"), requested(harness, "two/app", "team/app")
    )
    assert len(refused(harness, job)) == 1
    assert [copy_of(task).source.repository for task in copies(harness, job)] == ["one/app"]


def test_a_refused_expansion_succeeds_when_it_is_retried_without_the_tag_that_collided(harness: Harness) -> None:
    serve(harness, ["1.0"], "one/app")
    serve(harness, ["1.0"], "two/app")
    job = mirrored(harness, *(requested(harness, source, "team/{name}") for source in ("one/app", "two/app")))
    assert job.state == "partial"
    serve(harness, ["2.0"], "one/app")
    serve(harness, ["2.0"], "two/app")
    harness.core.queue.enqueue(harness.jobs.retry(job.id))
    job = harness.run_work_horses(job)
    assert (job.state, len(copies(harness, job))) == ("succeeded", 2)


def test_a_date_in_a_name_is_the_day_on_which_the_job_was_created(harness: Harness) -> None:
    serve(harness, ["1.0"])
    job = mirrored(harness, requested(harness, "team/app", "{date}/{name}"))
    [copy] = copies(harness, job)
    assert str(copy_of(copy).target) == f"{job.created_at:%Y%m%d}/app:1.0"
    assert abs((datetime.now(UTC) - job.created_at).days) <= 1


@pytest.mark.parametrize(
    ("overwrite", "unchanged", "skipped", "added"), [("if-different", 5, 0, 1), ("never", 0, 5, 1), ("always", 0, 0, 6)]
)
def test_the_tags_of_an_expansion_are_left_alone_followed_or_published_again(
    harness: Harness, overwrite: Overwrite, unchanged: int, skipped: int, added: int
) -> None:
    """One of six tags is gone from the bucket."""
    mark_built(harness.redis)
    serve(harness, [f"{number}.0" for number in range(6)])
    mirrored(harness, requested(harness, "team/app", "prod/app"))
    harness.bucket.delete([layout.tag_current_key("prod/app", "3.0")])
    asked = len(harness.registry.log())
    job = mirrored(harness, requested(harness, "team/app", "prod/app", options=CopyOptions(overwrite=overwrite)))
    counts = job.images
    assert (job.state, counts.total, counts.succeeded) == ("succeeded", 6, 6)
    assert (counts.unchanged, counts.skipped) == (unchanged, skipped)
    assert len(copies(harness, job)) == added
    progress = expansion_of(harness, job).expansion
    assert (progress.unchanged, progress.skipped, progress.tasks) == (unchanged, skipped, added)
    manifests = [request.path for request in harness.registry.log()[asked:] if "/manifests/" in request.path]
    assert overwrite != "never" or all("3.0" in path or "sha256" in path for path in manifests)


def test_a_moved_tag_that_is_immutable_fails_alone_in_an_expansion(harness: Harness) -> None:
    options = CopyOptions(immutable=(TagPattern("glob", "[0-9]*"),))
    serve(harness, ["1.0", "2.0", "latest"])
    mirrored(harness, requested(harness, "team/app", "prod/app", options=options))
    before = harness.core.links.current("prod/app", "1.0")
    for tag in ("1.0", "latest"):
        harness.registry.put(images.image(images.layer(f"moved {tag}")), "team/app", tag)
    job = mirrored(harness, requested(harness, "team/app", "prod/app", options=options))
    assert (job.state, job.images.failed, job.images.unchanged) == ("partial", 1, 1)
    codes = {str(copy_of(task).source.tag): task.error and task.error.code for task in copies(harness, job)}
    assert codes == {"1.0": "TAG_DRIFTED", "latest": None}
    assert harness.core.links.current("prod/app", "1.0") == before
