"""Docker Hub's pull limit, scripted: the mirror stops before it is used up, says so, and goes on in the next window.

Redis' clock is the registry's too, and it moves only when a test lets it.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from mirror.copying import blob_queue
from mirror.locks.lease import Leases
from mirror.records.job import Job
from mirror.redis import keys
from tests.support import images
from tests.support.fakes.docker_hub import PullLimit
from tests.support.fakes.server import Reply, Request
from tests.support.harness import Harness
from tests.support.servers import RcloneS3
from tests.support.stopped_clock import StoppedClock

WINDOW = 600
AT_ONCE = 6


@pytest.fixture
def s3_server(rclone_s3: RcloneS3) -> RcloneS3:
    """These tests are about the source and Redis. Any S3 server will do."""
    return rclone_s3


@pytest.fixture
def times(harness: Harness) -> StoppedClock:
    return StoppedClock(harness.redis)


def limited(harness: Harness, limit: int, times: StoppedClock) -> PullLimit:
    hub = PullLimit(limit, window=WINDOW, clock=times)
    harness.registry.script(hub)
    return hub


def run_all(harness: Harness, jobs: list[Job]) -> list[Job]:
    """Run the queued jobs, several at once. Return all jobs after that."""
    queued = [job for job in jobs if harness.jobs.job(job.id).state == "queued"]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(harness.run_tasks, queued))
    return [harness.jobs.job(job.id) for job in jobs]


def due(harness: Harness, task_id: str) -> float:
    return float(harness.redis.call("ZSCORE", keys.TASKS_PARKED, task_id)) / 1000


def end_of_wait(harness: Harness, times: StoppedClock) -> None:
    """Let the time come at which every parked task is due, and queue them."""
    [latest] = harness.redis.call("ZRANGE", keys.TASKS_PARKED, -1, -1)
    times.advance(due(harness, latest) - times() + 0.01)
    harness.reconcile()


def test_sixty_tags_come_in_three_windows_of_twenty_and_not_one_read_is_refused(
    harness: Harness, times: StoppedClock
) -> None:
    hub = limited(harness, 20, times)
    base = images.layer("base")
    for number in range(60):
        harness.registry.put(images.image(base, images.layer(f"own-{number}", 100)), "team/app", str(number))
    jobs = [harness.submit(f"team/app:{number}") for number in range(60)]
    for window in (1, 2, 3):
        after = run_all(harness, jobs)
        assert (hub.windows, hub.refused) == (window, 0)
        assert [job.state for job in after].count("succeeded") == 20 * window
        waiting = [job.waiting_for for job in after if job.state == "queued"]
        assert len(waiting) == 60 - 20 * window
        for reason in waiting:
            assert reason is not None
            assert (reason.reason, reason.registry) == ("quota", harness.registry.host)
        if waiting:
            end_of_wait(harness, times)
    assert len(harness.registry.log("api", method="GET", path="/manifests/")) == 60


def test_a_job_that_waits_is_told_when_the_window_ends(harness: Harness, times: StoppedClock) -> None:
    limited(harness, 1, times)
    for number in (1, 2):
        harness.registry.put(images.image(images.layer(f"own-{number}", 100)), "team/app", str(number))
    begun = times()
    assert harness.mirror("team/app:1").state == "succeeded"
    times.advance(60)
    waiting = harness.mirror("team/app:2").waiting_for
    assert waiting is not None
    [task] = harness.redis.call("ZRANGE", keys.TASKS_PARKED, 0, 0)
    assert due(harness, task) == pytest.approx(begun + WINDOW, abs=1)


def test_asking_what_is_there_costs_nothing_and_an_index_with_three_children_reserves_four(
    harness: Harness, times: StoppedClock
) -> None:
    hub = limited(harness, 4, times)
    harness.registry.put(images.three_platforms("a"), "team/app", "1")
    for _ in range(3):
        assert harness.mirror("team/app:1").state == "succeeded"
    assert (hub.used, hub.refused) == (4, 0)
    assert len(harness.registry.log("api", method="HEAD")) == 3


def test_an_index_is_begun_whole_or_not_at_all_once_its_cost_is_known(harness: Harness, times: StoppedClock) -> None:
    hub = limited(harness, 6, times)
    harness.registry.put(images.three_platforms("a"), "team/app", "a")
    harness.registry.put(images.three_platforms("b"), "team/app", "b")
    harness.registry.put(images.image(images.layer("one", 100)), "team/app", "one")
    assert harness.mirror("team/app:a").state == "succeeded"
    second = harness.submit("team/app:b")
    assert harness.run_tasks(second).state == "queued"
    assert hub.used == 5  # its root was read, and none of its children
    end_of_wait(harness, times)
    assert harness.mirror("team/app:one").state == "succeeded"
    assert harness.run_tasks(second).state == "succeeded"
    assert (hub.used, hub.refused) == (4, 0)  # and its root not again


def test_what_the_bucket_holds_already_costs_nothing(harness: Harness, times: StoppedClock) -> None:
    """A tag for an image that another tag of the repository has brought. Another repository has to show the root."""
    hub = limited(harness, 10, times)
    image = images.three_platforms("a")
    harness.registry.put(image, "team/app", "1")
    harness.registry.put(image, "team/app", "2")
    harness.registry.put(image, "other/app", "2")
    assert harness.mirror("team/app:1").state == "succeeded"
    assert hub.used == 4
    again = harness.mirror("team/app:2", "elsewhere/app:2")
    assert (again.state, again.digest, hub.used) == ("succeeded", str(image.digest), 4)
    other = harness.mirror("other/app:2")
    assert (other.state, other.digest, hub.used) == ("succeeded", str(image.digest), 5)


def test_a_task_that_waited_for_another_reason_reads_no_manifest_twice(harness: Harness, times: StoppedClock) -> None:
    hub = limited(harness, 10, times)
    image = images.three_platforms("a")
    harness.registry.put(image, "team/app", "1")
    layer = next(iter(image.all_blobs()))
    Leases(harness.redis).take(keys.blob_lease(layer), 60)
    job = harness.submit("team/app:1")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blob_queue, "LONGEST_WAIT", 0.0)
        waiting = harness.run_tasks(job).waiting_for
    assert waiting is not None
    assert (waiting.reason, hub.used) == ("blob_in_transfer", 4)
    harness.redis.call("DEL", keys.blob_lease(layer))
    end_of_wait(harness, times)
    assert (harness.run_tasks(job).state, hub.used) == ("succeeded", 4)


def test_indexes_that_share_a_small_limit_do_not_use_it_up_with_their_roots(
    harness: Harness, times: StoppedClock
) -> None:
    """Each needs a whole window. All roots are read in the first window, and none is read in vain after that."""
    hub = limited(harness, 4, times)
    for name in "abcde":
        harness.registry.put(images.three_platforms(name), "team/app", name)
    jobs = [harness.submit(f"team/app:{name}") for name in "abcde"]
    for _ in range(7):
        if all(job.state == "succeeded" for job in run_all(harness, jobs)):
            break
        end_of_wait(harness, times)
    assert {harness.jobs.job(job.id).state for job in jobs} == {"succeeded"}
    assert (hub.windows <= 7, hub.refused) == (True, 0)


def test_an_image_with_more_manifests_than_a_window_allows_comes_in_several(
    harness: Harness, times: StoppedClock
) -> None:
    """It cannot be had without being refused once, but what was read in one window is not read in the next."""
    hub = limited(harness, 2, times)
    harness.registry.put(images.three_platforms("a"), "team/app", "1")
    job = harness.submit("team/app:1")
    for _ in range(4):
        if run_all(harness, [job])[0].state == "succeeded":
            break
        end_of_wait(harness, times)
    assert harness.jobs.job(job.id).state == "succeeded"
    assert hub.windows <= 3


def test_a_limit_that_others_have_used_up_is_waited_for_when_the_registry_says_so(
    harness: Harness, times: StoppedClock
) -> None:
    """Its HEADs tell nothing here, so that the refusal is the first to tell."""
    hub = limited(harness, 1, times)
    harness.registry.script(lambda request, reply: without_limits(reply) if request.method == "HEAD" else None)
    harness.registry.put(images.image(images.layer("a", 100)), "team/app", "1")
    hub(Request("api", "GET", "/v2/other/manifests/1", {}, {}), Reply())
    job = harness.mirror("team/app:1")
    assert job.waiting_for is not None
    assert (job.waiting_for.reason, job.waiting_for.registry, hub.refused) == ("quota", harness.registry.host, 1)
    end_of_wait(harness, times)
    assert harness.run_tasks(job).state == "succeeded"


def without_limits(reply: Reply) -> Reply:
    headers = {name: value for name, value in reply.headers.items() if "ratelimit" not in name}
    return replace(reply, headers=headers)
