"""When a job with rules for platforms settles an image as unchanged, and when it copies again."""

from __future__ import annotations

import pytest

from mirror.oci.local_image import LocalImage
from mirror.oci.tag_pattern import TagPattern
from mirror.records.job_request import ImageRequest
from mirror.records.rules import CopyOptions, PlatformMode, PlatformRules, TagRules, TargetRule
from mirror.records.task import Task
from tests.conftest import requested_s3_server
from tests.integration.jobs.platform_jobs import INDEX, MODES, asked, entry, rebuilt, revisions, rules, run, with_index
from tests.support import images
from tests.support.fakes.lists import tag_pages
from tests.support.harness import Harness
from tests.support.servers import S3Server


@pytest.fixture
def s3_server(request: pytest.FixtureRequest) -> S3Server:
    """These tests are about rules and the source. Any S3 server will do."""
    return requested_s3_server(request)


@pytest.fixture
def mirror(harness: Harness) -> Harness:
    return with_index(harness)


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
