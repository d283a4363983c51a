"""A registry may name any time to wait: no task rests longer than a day, nor beyond its patience."""

from __future__ import annotations

from datetime import datetime

import pytest

from mirror.errors import LONGEST_REST, QuotaExhausted, RateLimited, RegistryDown
from mirror.records.job import Job
from mirror.records.task import WaitingFor
from mirror.redis import keys
from tests.support import images
from tests.support.fakes.docker_hub import PullLimit
from tests.support.fakes.server import Reply
from tests.support.harness import Harness
from tests.support.servers import RcloneS3
from tests.support.stopped_clock import StoppedClock

DAY = 24 * 3600.0


@pytest.fixture
def s3_server(rclone_s3: RcloneS3) -> RcloneS3:
    """These tests are about the source and Redis. Any S3 server will do."""
    return rclone_s3


@pytest.fixture
def clock(harness: Harness) -> StoppedClock:
    harness.registry.put(images.image(images.layer("a", 100)), "team/app", "1")
    return StoppedClock(harness.redis)


def rest(harness: Harness, clock: StoppedClock, job: Job) -> float:
    """For how many seconds the job's task is parked from now on."""
    [task] = harness.jobs.tasks(job.id, 1)
    return float(harness.redis.call("ZSCORE", keys.TASKS_PARKED, task.id)) / 1000 - clock()


def later(harness: Harness, clock: StoppedClock, job: Job) -> Job:
    """The job when its wait is over: its task is queued and performed, or has failed."""
    clock.advance(max(0.0, rest(harness, clock, job)) + 0.01)
    harness.reconcile()
    return harness.run_tasks(job)


@pytest.mark.parametrize("window", [999_999_999, 10**18])
def test_a_window_of_decades_parks_a_task_for_a_day_and_is_looked_at_again(
    harness: Harness, clock: StoppedClock, window: int
) -> None:
    hub = PullLimit(1, window=window, clock=clock)
    harness.registry.script(hub)
    harness.registry.put(images.image(images.layer("b", 100)), "team/app", "2")
    assert harness.mirror("team/app:1").state == "succeeded"
    job = harness.mirror("team/app:2")
    assert job.waiting_for is not None
    assert job.waiting_for.reason == "quota"
    assert rest(harness, clock, job) == pytest.approx(LONGEST_REST, abs=1)
    assert job.waiting_for.until is not None
    assert datetime.fromisoformat(job.waiting_for.until).timestamp() == pytest.approx(clock() + DAY, abs=1)
    harness.registry.scripts.clear()
    assert later(harness, clock, job).state == "succeeded"


def test_a_pull_limit_that_never_has_room_is_waited_for_thirty_days(harness: Harness, clock: StoppedClock) -> None:
    limit = {"ratelimit-limit": "1;w=999999999", "ratelimit-remaining": "0;w=999999999"}
    harness.registry.script(lambda request, _: Reply(429, limit) if request.method == "GET" else None)
    begun, job = clock(), harness.mirror("team/app:1")
    for _ in range(32):
        if job.state != "queued":
            break
        job = later(harness, clock, job)
    assert job.error is not None
    assert (job.state, job.error.code) == ("failed", QuotaExhausted.code)
    assert QuotaExhausted.patience <= clock() - begun < QuotaExhausted.patience + DAY


@pytest.mark.parametrize("answer", ["99999999999999999999", "Fri, 31 Dec 9999 23:59:59 GMT", "7200"])
def test_a_registry_that_always_asks_to_wait_fails_the_job_after_a_day_whatever_it_asks(
    harness: Harness, clock: StoppedClock, answer: str
) -> None:
    harness.registry.script(lambda *_: Reply(429, {"Retry-After": answer}))
    begun, job = clock(), harness.mirror("team/app:1")
    for _ in range(15):
        if job.state != "queued":
            break
        job = later(harness, clock, job)
    assert job.error is not None
    assert (job.state, job.error.code) == ("failed", RateLimited.code)
    assert RateLimited.patience <= clock() - begun < RateLimited.patience + 60


def test_a_rest_that_would_outlast_the_patience_ends_with_it_and_the_task_fails_then(
    harness: Harness, clock: StoppedClock
) -> None:
    """Its last error stands, and the registry is not asked once more."""
    harness.registry.script(lambda *_: Reply(429, {"Retry-After": str(5 * 3600)}))
    job = harness.mirror("team/app:1")
    for _ in range(4):
        assert rest(harness, clock, job) == pytest.approx(5 * 3600, abs=1)
        job = later(harness, clock, job)
    assert rest(harness, clock, job) == pytest.approx(4 * 3600, abs=1)
    asked = len(harness.registry.log())
    failed = later(harness, clock, job)
    assert failed.error is not None
    assert (failed.state, failed.error.code, failed.waiting_for) == ("failed", RateLimited.code, None)
    assert len(harness.registry.log()) == asked
    harness.registry.scripts.clear()
    harness.jobs.retry(job.id)
    assert harness.run_tasks(failed).state == "succeeded"


def test_a_task_that_an_older_release_parked_for_decades_is_queued(harness: Harness, clock: StoppedClock) -> None:
    job = harness.submit("team/app:1")
    [task] = harness.jobs.tasks(job.id, 1)
    claim = harness.records.claim(task.id, 0)
    assert claim is not None
    harness.core.claims.release(claim, wait=600, waiting_for=WaitingFor("quota", "2058-01-01T00:00:00Z"))
    harness.redis.call("ZADD", keys.TASKS_PARKED, int((clock() + 32 * 365 * DAY) * 1000), task.id)
    harness.reconcile()
    assert harness.run_tasks(job).state == "succeeded"


def test_no_release_parks_a_task_for_longer_than_a_day(harness: Harness, clock: StoppedClock) -> None:
    job = harness.submit("team/app:1")
    [task] = harness.jobs.tasks(job.id, 1)
    claim = harness.records.claim(task.id, 0)
    assert claim is not None
    harness.core.claims.release(claim, wait=1e12)
    assert rest(harness, clock, job) == pytest.approx(LONGEST_REST, abs=1)


def test_patience_is_counted_for_each_reason_and_begins_anew_after_a_long_time_without_it(
    harness: Harness, clock: StoppedClock
) -> None:
    job = harness.submit("team/app:1")
    [task] = harness.jobs.tasks(job.id, 1)
    claim = harness.records.claim(task.id, 0)
    assert claim is not None

    def ask(reason: str, patience: float = RegistryDown.patience) -> tuple[float, bool]:
        found = harness.core.claims.parking_time(claim, reason, wait=300, patience=patience)
        return found.seconds, found.is_last

    assert ask("registry_unreachable") == (300, False)
    clock.advance(3000)
    assert ask("rate_limited", DAY) == (300, False)
    assert ask("registry_unreachable") == (300, False)
    clock.advance(400)
    assert ask("registry_unreachable") == (200, True)
    clock.advance(200)
    assert ask("registry_unreachable") == (0, True)
    clock.advance(2 * RegistryDown.patience)
    assert ask("registry_unreachable") == (300, False)
    assert ask("rate_limited", DAY) == (300, False)
