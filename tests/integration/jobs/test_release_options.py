"""Atomic jobs with selections of tags, overwriting and platforms, and their bound."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from mirror.copying.cancellation import Cancellation
from mirror.errors import ReleaseTooLarge
from mirror.jobs.claim import ClaimedCopy
from mirror.oci.platform import PlatformPattern
from mirror.oci.tag_pattern import TagPattern
from mirror.queue import NORMAL
from mirror.records.job import Job, JobOptions
from mirror.records.job_request import ImageRequest
from mirror.records.rules import ALL_TAGS, CopyOptions, PlatformMode, PlatformRules
from mirror.storage.releases import MOST_TAGS
from tests.support import images
from tests.support.fakes import faults
from tests.support.fakes.lists import tag_pages
from tests.support.harness import Harness
from tests.support.release_set import ReleaseSet, replaced_write


def error_code(job: Job) -> str | None:
    return job.error.code if job.error else None


def chosen_tags(harness: Harness, tags: list[str]) -> Job:
    """Submit an atomic job of a repository with these tags, each with an image of its own."""
    for tag in tags:
        harness.registry.put(images.image(images.layer(tag, 200)), "source/app", tag)
    harness.registry.script(tag_pages(tags))
    request = ImageRequest(f"{harness.registry.host}/source/app", "team/app:{tag}", tags=ALL_TAGS)
    return harness.core.submitter.submit([request], JobOptions(atomic=True))[0]


def test_all_tags_that_a_job_has_chosen_move_together(harness: Harness) -> None:
    job = chosen_tags(harness, ["1", "2", "3", "4"])
    links: list[str] = []

    def note(write: Any, repository: str, tag: str, *rest: Any, **options: Any) -> None:
        assert harness.jobs.job(job.id).images.succeeded == 4
        links.append(tag)
        write(repository, tag, *rest, **options)

    with replaced_write("set_current", note):
        job = harness.run_work_horses(job)
    assert (job.state, job.images.succeeded, sorted(links)) == ("succeeded", 4, ["1", "2", "3", "4"])


def test_one_failure_among_chosen_tags_moves_none(harness: Harness) -> None:
    harness.registry.script(faults.faulty(faults.status(404), path="source/app/manifests/3"))
    job = harness.run_work_horses(chosen_tags(harness, ["1", "2", "3", "4"]))
    assert (job.state, job.images.succeeded, job.images.failed) == ("failed", 3, 1)
    assert not [key for key in harness.stored() if "/_manifests/tags/" in key]


def test_more_tags_than_can_move_together_are_refused(harness: Harness) -> None:
    requests = [ImageRequest(f"docker.io/team/app:{number}") for number in range(MOST_TAGS + 1)]
    with pytest.raises(ReleaseTooLarge):
        harness.core.submitter.submit(requests, JobOptions(atomic=True))
    assert harness.jobs.page(limit=1, before=None, state=None, source=None) == ([], None)


@pytest.mark.parametrize(("module", "total"), [("expand", 1), ("release", 4)])
def test_more_chosen_tags_than_can_move_together_fail_the_job(
    harness: Harness, monkeypatch: pytest.MonkeyPatch, module: str, total: int
) -> None:
    """Before anything is copied if one repository has too many, and before a tag moves if several have."""
    monkeypatch.setattr(f"mirror.jobs.{module}.MOST_TAGS", 3)
    job = harness.run_work_horses(chosen_tags(harness, ["1", "2", "3", "4"]))
    assert (job.state, error_code(job), job.images.total) == ("failed", "RELEASE_TOO_LARGE", total)
    assert not [key for key in harness.stored() if "/_manifests/tags/" in key]


def test_a_target_that_exists_and_is_not_to_be_overwritten_is_not_part_of_the_set(harness: Harness) -> None:
    tags = ReleaseSet.of(harness, 1, fresh=2)
    job = tags.run(options=CopyOptions(overwrite="never"))
    assert (job.state, job.images.succeeded, job.images.skipped) == ("succeeded", 3, 1)
    kept = {"team/app-0:1": tags.old["team/app-0:1"]}
    assert tags.shown() == {**tags.new, **kept}


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (CopyOptions(), None),
        (CopyOptions(overwrite="never"), "RELEASE_SUPERSEDED"),
        (CopyOptions(immutable=(TagPattern("exact", "1"),)), "TAG_DRIFTED"),
        (CopyOptions(on_move_upstream="report"), "RELEASE_SUPERSEDED"),
    ],
)
def test_a_tag_that_an_earlier_change_made_meanwhile_is_moved_only_if_the_job_may_overwrite_it(
    harness: Harness, options: CopyOptions, code: str | None
) -> None:
    """The other job asked the source before this one, and its copy ended after the images of this one were staged."""
    tags = ReleaseSet.of(harness, 0, fresh=3)
    earlier = tags.move_source("team/app-1:1", "earlier")
    other = harness.submit(tags.source("team/app-1:1"), "team/app-1:1")
    [task] = harness.jobs.tasks(other.id, 1)
    [claimed] = harness.core.claimer.claim([(task.id, task.fence, NORMAL)], Cancellation())
    assert isinstance(claimed, ClaimedCopy)
    claimed.look_up(harness.core.resolver)
    tags.new["team/app-1:1"] = tags.move_source("team/app-1:1", "new")
    job, _ = tags.staged(options=options)
    tags.move_source("team/app-1:1", "earlier")
    harness.core.runner.run(claimed)
    assert tags.shown() == {**tags.old, "team/app-1:1": earlier}
    job = harness.run_tasks(job)
    assert error_code(job) == code
    assert tags.shown() == (tags.new if code is None else {**tags.old, "team/app-1:1": earlier})


def test_what_lists_show_of_an_image_follows_its_release_also_if_its_digest_stays(harness: Harness) -> None:
    """An image that is published once more has a new job. One that is only confirmed keeps its entry."""
    tags = ReleaseSet.of(harness, 2)
    assert tags.run().state == "succeeded"
    entries = [harness.core.index.entry(target.partition(":")[0], "1") for target in tags.new]
    assert tags.run().state == "succeeded"
    again = [harness.core.index.entry(target.partition(":")[0], "1") for target in tags.new]
    assert [one and replace(one, referrers=None) for one in again] == [
        one and replace(one, referrers=None) for one in entries
    ], "only the time of the last look at its referrers has changed"
    republished = tags.run(options=CopyOptions(overwrite="always"))
    assert republished.state == "succeeded"
    published = [harness.core.index.entry(target.partition(":")[0], "1") for target in tags.new]
    assert {entry.job for entry in published if entry} == {republished.id}
    assert tags.listed() == tags.new


@pytest.mark.parametrize("mode", ["sparse", "rewrite", "single"])
def test_a_release_moves_tags_to_what_the_rules_for_platforms_made(harness: Harness, mode: PlatformMode) -> None:
    targets = ["team/one:1", "team/two:1"]
    indexes = {target: images.three_platforms(target) for target in targets}
    for target, index in indexes.items():
        harness.registry.put(index, *ReleaseSet.source(target).split(":"))
    rules = PlatformRules((PlatformPattern.parse("linux/arm64"),), mode)
    tags = ReleaseSet(harness, new=dict.fromkeys(targets))
    job = tags.run(options=CopyOptions(rules))
    assert job.state == "succeeded", job.error
    for target, shown in tags.shown().items():
        assert (shown == indexes[target].digest) == (mode == "sparse")
        entry = harness.core.index.entry(target.partition(":")[0], "1")
        assert entry is not None
        assert (entry.digest, entry.platforms, entry.platform_rules) == (str(shown), ("linux/arm64",), rules.key)
    assert tags.run(options=CopyOptions(rules)).images.unchanged == 2
