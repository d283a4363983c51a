"""A job that names a repository: its tags are listed, chosen, and mirrored by tasks that the expansion adds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Any

import pytest

from mirror.copying.cancellation import Cancellation
from mirror.records import selections
from mirror.records.job import USUAL, Job, JobOptions
from mirror.records.job_request import ImageRequest
from mirror.records.rule_schemas import TAG_RULES
from mirror.records.rules import TargetRule
from mirror.records.selections import Choice
from mirror.records.spec import CopySpec
from mirror.records.task import Task
from mirror.redis import keys
from tests.integration.records.submitted import LOST
from tests.support import images
from tests.support.fakes.lists import PagedReplies, catalog_pages, tag_pages
from tests.support.fakes.registry import Reply, Request
from tests.support.harness import Harness, mark_built
from tests.support.servers.s3 import RcloneS3
from tests.support.stopped_clock import StoppedClock

TAGS = ("3.17", "3.18", "3.19", "3.20", "3.21-rc1", "latest", "edge")


@pytest.fixture
def s3_server(rclone_s3: RcloneS3) -> RcloneS3:
    """These tests are about the source and Redis. Any S3 server will do."""
    return rclone_s3


def serve(harness: Harness, tags: Iterable[str], repository: str = "team/app") -> None:
    """Let the registry have an image of its own under each tag, and list the tags."""
    tags = list(tags)
    for tag in tags:
        harness.registry.put(images.image(images.layer(f"{repository}:{tag}")), repository, tag)
    harness.registry.script(tag_pages(tags))


def submit(
    harness: Harness,
    tags: Mapping[str, Any] | None,
    *,
    source: str = "team/app",
    options: JobOptions = USUAL,
    **fields: Any,
) -> Job:
    rules = TAG_RULES.load(dict(tags or {}))
    request = ImageRequest(f"{harness.registry.host}/{source}", tags=rules, **fields)
    return harness.core.submitter.submit([request], options)[0]


def run(harness: Harness, tags: Mapping[str, Any] | None, **fields: Any) -> Job:
    return harness.run_work_horses(submit(harness, tags, **fields))


def expansion_of(harness: Harness, job: Job) -> Task:
    return next(task for task in harness.jobs.tasks(job.id, 1_000) if task.spec.kind == "expand")


def choices_of(harness: Harness, job: Job) -> dict[str, str | None]:
    task = expansion_of(harness, job)
    found, _ = harness.core.selections.choices(job.id, task.id, limit=1_000, after=None, selected=None)
    return {choice.name: choice.rule for choice in found}


def heads(harness: Harness) -> list[str]:
    return [request.path.rpartition("/")[2] for request in harness.registry.log("api", method="HEAD")]


def test_the_chosen_tags_are_mirrored_and_each_other_names_its_rule(harness: Harness) -> None:
    serve(harness, TAGS)
    job = run(harness, {"semver": ">=3.18 <4", "deny": [{"glob": "*-rc*"}]})
    assert (job.state, job.error) == ("succeeded", None)
    assert (job.images.total, job.images.succeeded, job.listed, job.selected) == (3, 3, 7, 3)
    assert choices_of(harness, job) == {
        "3.17": "semver",
        "3.18": None,
        "3.19": None,
        "3.20": None,
        "3.21-rc1": "deny",
        "latest": "semver",
        "edge": "semver",
    }
    for tag in ("3.18", "3.19", "3.20"):
        assert harness.core.links.current(f"{harness.registry.host.replace(':', '_')}/team/app", tag) is not None
    assert harness.core.links.current(f"{harness.registry.host.replace(':', '_')}/team/app", "edge") is None


def test_unchanged_tags_cost_one_head_and_get_no_task(harness: Harness) -> None:
    mark_built(harness.redis)
    serve(harness, TAGS)
    run(harness, {})
    harness.registry.requests.clear()
    harness.registry.put(images.image(images.layer("new")), "team/app", "edge")
    job = run(harness, {})
    assert (job.state, job.images.total, job.images.unchanged) == ("succeeded", 7, 6)
    tasks = harness.jobs.tasks(job.id, 100)
    assert [task.spec.kind for task in tasks] == ["expand", "copy"]
    assert (tasks[0].expansion.unchanged, tasks[0].expansion.tasks) == (6, 1)
    assert Counter(heads(harness)) == Counter({**dict.fromkeys(TAGS, 1), "edge": 2})


def test_a_repository_without_a_chosen_tag_fails_and_says_which_rules_dropped_its_tags(harness: Harness) -> None:
    serve(harness, TAGS)
    job = run(harness, {"semver": ">=9"})
    assert job.state == "failed"
    assert job.error is not None
    assert job.error.code == "NO_TAG_SELECTED"
    assert "semver" in job.error.message


def test_a_selection_that_is_too_large_copies_nothing(harness: Harness) -> None:
    serve(harness, TAGS)
    job = run(harness, {"max_tags": 3})
    assert job.error is not None
    assert (job.state, job.error.code) == ("failed", "SELECTION_TOO_LARGE")
    assert harness.stored() == []


def test_a_digest_waits_until_it_was_seen_for_long_enough(harness: Harness) -> None:
    clock = StoppedClock(harness.redis)
    serve(harness, ["1.0"])
    rules = {"min_age": "72h"}
    first = run(harness, rules)
    assert (first.state, first.images.total, first.selected) == ("succeeded", 0, 0)
    clock.advance(timedelta(hours=71).total_seconds())
    assert run(harness, rules).selected == 0
    clock.advance(timedelta(hours=1).total_seconds())
    assert run(harness, rules).images.succeeded == 1
    harness.registry.put(images.image(images.layer("moved")), "team/app", "1.0")
    assert run(harness, rules).selected == 0
    clock.advance(timedelta(hours=72).total_seconds())
    assert run(harness, rules).images.succeeded == 1


def test_a_tag_that_moves_after_it_was_chosen_is_mirrored_as_it_was_chosen(harness: Harness) -> None:
    clock = StoppedClock(harness.redis)
    serve(harness, ["1.0"])
    old = images.image(images.layer("team/app:1.0"))
    run(harness, {"min_age": "1h"})
    clock.advance(3600)
    job = submit(harness, {"min_age": "1h"})
    [entry] = harness.core.queue.take(1)
    [claimed] = harness.core.claimer.claim([entry], Cancellation())
    harness.core.runner.run(claimed)
    harness.registry.put(images.image(images.layer("moved")), "team/app", "1.0")
    job = harness.run_work_horses(job)
    assert job.images.succeeded == 1
    repository = f"{harness.registry.host.replace(':', '_')}/team/app"
    assert harness.core.links.current(repository, "1.0") == old.digest


def test_each_target_of_a_tag_is_a_copy_and_no_blob_is_fetched_twice(harness: Harness) -> None:
    serve(harness, ["1.0", "2.0"])
    job = run(harness, {}, target=[TargetRule("one/{name}:{tag}"), TargetRule("two/{repository}:v{tag}")])
    assert (job.state, job.images.total) == ("succeeded", 4)
    names = {str(task.spec.target) for task in harness.jobs.tasks(job.id, 9) if isinstance(task.spec, CopySpec)}
    assert names == {"one/app:1.0", "one/app:2.0", "two/team/app:v1.0", "two/team/app:v2.0"}
    fetched = Counter(r.path for r in harness.registry.log("api", method="GET", path="/blobs/"))
    assert set(fetched.values()) == {1}


def test_two_tags_with_one_target_are_refused_before_anything_is_copied(harness: Harness) -> None:
    serve(harness, ["1.0", "2.0"])
    job = run(harness, {}, target="team/app:stable")
    assert job.error is not None
    assert (job.state, job.error.code) == ("failed", "TARGET_REPEATED")
    assert harness.stored() == []


def test_a_tag_without_a_valid_target_is_named_and_all_others_are_mirrored(harness: Harness) -> None:
    long = "1." + "0" * 120
    serve(harness, ["1.0", long])
    job = run(harness, {}, target="team/app:{tag}-mirrored")
    assert job.error is not None
    assert (job.state, job.images.total, job.images.succeeded) == ("partial", 2, 1)
    assert job.error.code == "TARGETS_INVALID"
    assert long in job.error.message
    assert choices_of(harness, job) == {"1.0": None, long: "target"}


def test_a_registry_whose_heads_are_of_no_use_is_asked_by_get(harness: Harness) -> None:
    clock = StoppedClock(harness.redis)
    serve(harness, ["1.0"])
    harness.registry.script(lambda request, _: Reply(405) if request.method == "HEAD" else None)
    assert run(harness, {"min_age": "1h"}).selected == 0
    clock.advance(3600)
    assert run(harness, {"min_age": "1h"}).images.succeeded == 1


def test_a_name_with_a_digest_is_made_after_the_source_was_asked(harness: Harness) -> None:
    image = images.image(images.layer("a"))
    harness.registry.put(image, "team/app", "1.0")
    harness.registry.script(tag_pages(["1.0", "2.0"]))
    request = ImageRequest(f"{harness.registry.host}/team/app:1.0", "team/app:{tag}-{digest12}")
    job = harness.run_work_horses(harness.core.submitter.submit([request])[0])
    assert job.images.succeeded == 1
    assert harness.core.links.current("team/app", f"1.0-{image.digest.hex[:12]}") == image.digest


def test_a_wildcard_expands_every_repository_below_its_prefix(harness: Harness) -> None:
    for name in ("team/app", "team/tools/cli", "other/app"):
        harness.registry.put(images.image(images.layer(name)), name, "1.0")
    harness.registry.script(catalog_pages(["other/app", "team/app", "team/tools/cli", "team/old"]))
    harness.registry.script(tag_pages(["1.0"]))
    harness.registry.script(PagedReplies("team/old/tags/list", "tags", ["0.1"]))
    rules = TAG_RULES.load({"semver": ">=1"})
    request = ImageRequest(f"{harness.registry.host}/team/*", tags=rules)
    job = harness.run_work_horses(harness.core.submitter.submit([request])[0])
    assert (job.state, job.images.total, job.images.succeeded) == ("succeeded", 2, 2)
    sources = sorted(str(task.spec.source) for task in harness.jobs.tasks(job.id, 99))
    assert sources == sorted(
        f"{harness.registry.host}/{name}"
        for name in ("team/*", "team/app", "team/app:1.0", "team/old", "team/tools/cli", "team/tools/cli:1.0")
    )


def test_a_list_that_fails_is_never_a_short_list(harness: Harness) -> None:
    serve(harness, TAGS)

    def cut_off(request: Request, reply: Reply) -> Reply | None:
        return Reply(500) if "last" in request.query else None

    harness.registry.scripts.clear()
    harness.registry.script(tag_pages(TAGS, most=3))
    harness.registry.script(cut_off)
    job = run(harness, {})
    assert job.waiting_for is not None
    assert (job.state, job.waiting_for.reason, job.listed) == ("queued", "registry_failing", 0)
    assert harness.stored() == []


@pytest.mark.parametrize("fails_at", range(4))
def test_a_worker_that_takes_over_adds_nothing_twice(
    harness: Harness, monkeypatch: pytest.MonkeyPatch, fails_at: int
) -> None:
    monkeypatch.setattr(selections, "PART", 5)
    tags = [f"1.{n}" for n in range(12)]
    serve(harness, tags)
    steps = iter(range(1_000))
    kept, added = harness.core.selections.keep, harness.core.selections.add_part

    def dies(step: Any) -> Any:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            answer = step(*args, **kwargs) if fails_at % 2 else None
            if next(steps) == fails_at // 2:
                raise KeyboardInterrupt
            return answer if fails_at % 2 else step(*args, **kwargs)

        return wrapped

    monkeypatch.setattr(type(harness.core.selections), "keep", lambda _, *a, **k: dies(kept)(*a, **k))
    monkeypatch.setattr(type(harness.core.selections), "add_part", lambda _, *a, **k: dies(added)(*a, **k))
    job = submit(harness, {})
    [entry] = harness.core.queue.take(1)
    [claimed] = harness.core.claimer.claim([entry], Cancellation())
    with pytest.raises(KeyboardInterrupt):
        harness.core.runner.run(claimed)
    monkeypatch.undo()
    monkeypatch.setattr(selections, "PART", 5)
    harness.redis.call("ZADD", keys.TASKS_RUNNING, "XX", 1, claimed.id)
    harness.core.queue.enqueue(harness.records.recovery.expire(claimed.id, LOST))
    for task in harness.jobs.tasks(job.id, 100):
        harness.redis.call("ZADD", keys.TASKS_QUEUED, "XX", 1, task.id)
    harness.reconcile()
    job = harness.run_work_horses(job)
    assert (job.state, job.images.total, job.images.succeeded) == ("succeeded", len(tags), len(tags))


def test_choices_are_read_in_pages(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selections, "PART", 10)
    tags = [f"1.{n}" for n in range(45)]
    serve(harness, tags)
    job = run(harness, {"deny": [{"glob": "1.?"}], "latest": {"count": 2, "by": "semver"}})
    task = expansion_of(harness, job)
    found: list[Choice] = []
    after = None
    while True:
        page, after = harness.core.selections.choices(job.id, task.id, limit=12, after=after, selected=False)
        found += page
        if after is None:
            break
    assert len(found) == len(tags) - 2
    assert {choice.rule for choice in found} == {"deny", "latest"}


def test_a_cancel_between_two_parts_ends_the_job_and_adds_nothing_more(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(selections, "PART", 5)
    serve(harness, [f"1.{n}" for n in range(12)])
    job = submit(harness, {})
    added = harness.core.selections.add_part

    def cancel_after(*args: Any, **kwargs: Any) -> Any:
        answer = added(*args, **kwargs)
        harness.jobs.cancel(job.id)
        return answer

    monkeypatch.setattr(type(harness.core.selections), "add_part", lambda _, *a, **k: cancel_after(*a, **k))
    [entry] = harness.core.queue.take(1)
    [claimed] = harness.core.claimer.claim([entry], Cancellation())
    harness.core.runner.run(claimed)
    harness.reconcile()
    ended = harness.run_work_horses(job)
    assert (ended.state, ended.images.total, ended.images.canceled) == ("canceled", 6, 6)
    assert harness.stored() == []


def test_a_retry_lists_again_what_could_not_be_listed(harness: Harness) -> None:
    job = run(harness, {})
    assert job.error is not None
    assert (job.state, job.error.code) == ("failed", "NAME_UNKNOWN")
    serve(harness, ["1.0"])
    harness.core.queue.enqueue(harness.jobs.retry(job.id))
    job = harness.run_work_horses(job)
    assert (job.state, job.error, job.images.total, job.images.succeeded) == ("succeeded", None, 1, 1)


def test_a_retry_of_a_partial_job_does_not_expand_again(harness: Harness) -> None:
    serve(harness, ["1.0", "2.0"])
    harness.registry.script(lambda request, _: Reply(404) if request.path.endswith("/manifests/2.0") else None)
    job = run(harness, {})
    assert (job.state, job.images.failed) == ("partial", 1)
    harness.registry.scripts.pop()
    lists = len(harness.registry.log("api", path="/tags/list"))
    harness.core.queue.enqueue(harness.jobs.retry(job.id))
    job = harness.run_work_horses(job)
    assert (job.state, job.images.total, job.images.succeeded) == ("succeeded", 2, 2)
    assert len(harness.registry.log("api", path="/tags/list")) == lists
