"""A job of many images, run by one worker with other jobs."""

from __future__ import annotations

import pytest

from mirror.jobs.claim import ClaimedTask, TaskSettler
from mirror.records.claims import Outcome
from mirror.records.jobs import JobStore
from mirror.records.spec import CopySpec
from mirror.redis import keys
from tests.support import images
from tests.support.harness import Harness
from tests.support.servers import RcloneS3

WINDOW = 4
IMAGES = 60


@pytest.fixture
def s3_server(rclone_s3: RcloneS3) -> RcloneS3:
    """One is enough: the bucket plays no part here."""
    return rclone_s3


def test_a_job_of_one_image_ends_while_a_large_job_runs(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    image = images.image(images.layer("small"))
    for number in range(IMAGES):
        harness.registry.put(image, f"team/app{number}", "1")
    harness.registry.put(image, "team/other", "1")
    host = harness.registry.host
    specs = [CopySpec.parse(f"{host}/team/app{n}:1", f"team/app{n}:1") for n in range(IMAGES)]
    large, _, entries = JobStore(harness.redis, window=WINDOW).submit(specs)
    harness.core.queue.enqueue(entries)
    small = harness.submit("team/other:1")
    longest = 0

    succeed = TaskSettler.succeed

    def note_length(settler: TaskSettler, task: ClaimedTask, outcome: Outcome) -> None:
        nonlocal longest
        succeed(settler, task, outcome)
        longest = max(longest, harness.redis.call("LLEN", f"{keys.RQ_PREFIX}:queue:tasks"))

    monkeypatch.setattr(TaskSettler, "succeed", note_length)
    harness.pool(at_once=2).run(*harness.take())
    assert longest > 0
    ended = harness.jobs.job(large.id)
    other = harness.jobs.job(small.id)
    assert (ended.state, ended.images.succeeded, other.state) == ("succeeded", IMAGES, "succeeded")
    assert ended.finished_at is not None
    assert other.finished_at is not None
    assert other.finished_at < ended.finished_at
    assert longest <= WINDOW + 1
    assert harness.redis.call("ZCARD", keys.TASKS_QUEUED) == 0
