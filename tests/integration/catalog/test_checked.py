"""When tags were last compared with their sources."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest

from mirror.catalog.checked import CheckedTags
from mirror.oci.local_image import LocalImage
from mirror.oci.tag_pattern import TagPattern
from mirror.records.fields import at
from mirror.records.job import Job, JobOptions
from mirror.records.job_request import ImageRequest
from mirror.records.rule_schemas import TAG_RULES
from mirror.records.rules import PLAIN_COPY, CopyOptions
from mirror.redis import keys
from mirror.redis.client import Redis
from tests.support import images
from tests.support.fakes.lists import tag_pages
from tests.support.harness import Harness, mark_built
from tests.support.servers import RcloneS3
from tests.support.stopped_clock import StoppedClock

OLD, NEW = images.image(images.layer("old")), images.image(images.layer("new"))
TAGS = ("v1", "v2", "v3")
REPOSITORY = "prod/app"


@pytest.fixture
def s3_server(rclone_s3: RcloneS3) -> RcloneS3:
    """These tests are about what Redis holds. Any S3 server will do."""
    return rclone_s3


@pytest.fixture
def clock(harness: Harness) -> StoppedClock:
    mark_built(harness.redis)
    for tag in TAGS:
        harness.registry.put(OLD, "team/app", tag)
    return StoppedClock(harness.redis)


def mirror(harness: Harness, *tags: str, options: CopyOptions = PLAIN_COPY, of_job: JobOptions | None = None) -> Job:
    """Mirror tags of team/app with a worker, as images of one job."""
    requests = [
        ImageRequest(f"{harness.registry.host}/team/app:{tag}", f"{REPOSITORY}:{tag}", options=options) for tag in tags
    ]
    job, _ = harness.core.submitter.submit(requests, of_job or JobOptions())
    return harness.run_work_horses(job)


def checked(harness: Harness, tag: str = "v1") -> datetime | None:
    return CheckedTags(harness.redis).times([(REPOSITORY, tag)])[0]


def now(harness: Harness) -> datetime:
    return at(harness.redis.now())


def test_a_tag_is_checked_when_it_is_published_and_when_a_job_finds_it_unchanged(
    harness: Harness, clock: StoppedClock
) -> None:
    for unchanged in (False, True, True):
        clock.advance(60)
        job = mirror(harness, "v1")
        assert (job.state, job.images.unchanged) == ("succeeded", int(unchanged))
        assert checked(harness) == now(harness)


def test_a_task_that_runs_alone_notes_it_as_well(harness: Harness, clock: StoppedClock) -> None:
    for _ in range(2):
        clock.advance(60)
        assert harness.mirror("team/app:v1", f"{REPOSITORY}:v1").state == "succeeded"
        assert checked(harness) == now(harness)


@pytest.mark.parametrize("as_selection", [True, False])
def test_many_unchanged_tags_are_noted_together(harness: Harness, clock: StoppedClock, as_selection: bool) -> None:
    harness.registry.script(tag_pages(list(TAGS)))
    mirror(harness, *TAGS)
    clock.advance(60)
    if as_selection:
        request = ImageRequest(f"{harness.registry.host}/team/app", f"{REPOSITORY}:{{tag}}", tags=TAG_RULES.load({}))
        job = harness.run_work_horses(harness.core.submitter.submit([request])[0])
    else:
        job = mirror(harness, *TAGS)
    assert (job.state, job.images.unchanged) == ("succeeded", 3)
    assert [checked(harness, tag) for tag in TAGS] == [now(harness)] * 3


def test_a_release_set_is_checked_also_where_it_is_unchanged(harness: Harness, clock: StoppedClock) -> None:
    mirror(harness, "v1")
    clock.advance(60)
    assert mirror(harness, "v1", "v2", of_job=JobOptions(atomic=True)).state == "succeeded"
    assert [checked(harness, tag) for tag in ("v1", "v2")] == [now(harness)] * 2


def test_a_tag_that_its_source_moved_was_compared_and_one_that_exists_was_not(
    harness: Harness, clock: StoppedClock
) -> None:
    mirror(harness, "v1")
    published = now(harness)
    harness.registry.put(NEW, "team/app", "v1")
    clock.advance(60)
    assert mirror(harness, "v1", options=CopyOptions(overwrite="never")).images.skipped == 1
    assert checked(harness) == published
    assert mirror(harness, "v1", options=CopyOptions(on_move_upstream="report")).images.skipped == 1
    assert checked(harness) == published + timedelta(seconds=60)
    clock.advance(60)
    assert mirror(harness, "v1", options=CopyOptions(immutable=(TagPattern("glob", "*"),))).state == "failed"
    assert checked(harness) == published + timedelta(seconds=120)


def test_a_retagged_image_was_not_compared_with_a_source(harness: Harness, clock: StoppedClock) -> None:
    mirror(harness, "v1", "v2")
    assert checked(harness, "v2") == now(harness)
    first, second, new = (LocalImage(REPOSITORY, tag) for tag in ("v1", "v2", "new"))
    for target in (second, new):
        harness.core.retagger.retag(target, first, allowed=lambda _: True)
    assert [checked(harness, tag) for tag in ("v1", "v2", "new")] == [now(harness), None, None]


def test_the_time_goes_with_the_tag_and_with_the_index(harness: Harness, clock: StoppedClock) -> None:
    mirror(harness, "v1", "v2")
    harness.core.deleter.delete(LocalImage(REPOSITORY, "v1"), allowed=lambda _: True)
    assert harness.redis.call("HKEYS", keys.index_checked(REPOSITORY)) == ["v2"]
    harness.redis.call("FLUSHALL")
    assert harness.core.rebuilder.rebuild(lambda: True)
    assert checked(harness, "v2") is None
    clock.advance(60)
    assert mirror(harness, "v2").images.unchanged == 1
    assert checked(harness, "v2") == now(harness)
    harness.core.deleter.delete(LocalImage(REPOSITORY, "v2"), allowed=lambda _: True)
    assert harness.redis.call("EXISTS", keys.index_checked(REPOSITORY)) == 0


def test_ten_thousand_tags_are_noted_and_read_in_few_round_trips(redis: Redis) -> None:
    tags = [(f"team/app-{number % 2}", f"v{number}") for number in range(10_000)]
    times = CheckedTags(redis)
    StoppedClock(redis)
    redis.call("CONFIG", "RESETSTAT")
    times.note(tags)
    stats = redis.call("INFO", "commandstats")
    sent = sum(stats.get(f"cmdstat_{name}", {"calls": 0})["calls"] for name in ("eval", "evalsha"))
    assert sent <= 2
    assert stats["cmdstat_hset"]["calls"] == 10
    assert times.times(tags[:3]) == [at(redis.now())] * 3
    assert times.times([("team/app-0", "other")]) == [None]
    times.note([])
