"""Docker Hub's pull limit, scripted: the mirror stops before it is used up, says so, and goes on in the next window.

Redis' clock is the registry's too, and it moves only when a test lets it.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from mirror.coordination import keys
from mirror.coordination.lease import Leases
from mirror.copying import blob_queue
from mirror.records.job import Job
from tests import images
from tests.fakes.docker_hub import PullLimit
from tests.fakes.server import Reply, Request
from tests.plant import Plant
from tests.unit.coordination.stopped_clock import StoppedClock

WINDOW = 600
AT_ONCE = 6


@pytest.fixture
def times(plant: Plant) -> StoppedClock:
    return StoppedClock(plant.redis)


def limited(plant: Plant, limit: int, times: StoppedClock) -> PullLimit:
    hub = PullLimit(limit, window=WINDOW, clock=times)
    plant.registry.script(hub)
    return hub


def perform_all(plant: Plant, jobs: list[Job]) -> list[Job]:
    """Perform what is queued, several tasks at once; the jobs after that."""
    queued = [job for job in jobs if plant.store.job(job.id).state == "queued"]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(plant.perform, queued))
    return [plant.store.job(job.id) for job in jobs]


def due(plant: Plant, task_id: str) -> float:
    return float(plant.redis.call("ZSCORE", keys.TASKS_PARKED, task_id)) / 1000


def end_of_wait(plant: Plant, times: StoppedClock) -> None:
    """Let the time come at which every parked task is due, and queue them."""
    [latest] = plant.redis.call("ZRANGE", keys.TASKS_PARKED, -1, -1)
    times.advance(due(plant, latest) - times() + 0.01)
    plant.reconciler.reconcile()


def test_sixty_tags_come_in_three_windows_of_twenty_and_not_one_read_is_refused(
    plant: Plant, times: StoppedClock
) -> None:
    hub = limited(plant, 20, times)
    base = images.layer("base")
    for number in range(60):
        plant.registry.put(images.image(base, images.layer(f"own-{number}", 100)), "team/app", str(number))
    jobs = [plant.submit(f"team/app:{number}") for number in range(60)]
    for window in (1, 2, 3):
        after = perform_all(plant, jobs)
        assert (hub.windows, hub.refused) == (window, 0)
        assert [job.state for job in after].count("succeeded") == 20 * window
        waiting = [job.waiting_for for job in after if job.state == "queued"]
        assert len(waiting) == 60 - 20 * window
        for reason in waiting:
            assert reason is not None
            assert (reason.reason, reason.registry) == ("quota", plant.registry.host)
        if waiting:
            end_of_wait(plant, times)
    assert len(plant.registry.log("api", method="GET", path="/manifests/")) == 60


def test_a_job_that_waits_is_told_when_the_window_ends(plant: Plant, times: StoppedClock) -> None:
    limited(plant, 1, times)
    for number in (1, 2):
        plant.registry.put(images.image(images.layer(f"own-{number}", 100)), "team/app", str(number))
    begun = times()
    assert plant.mirror("team/app:1").state == "succeeded"
    times.advance(60)
    waiting = plant.mirror("team/app:2").waiting_for
    assert waiting is not None
    [task] = plant.redis.call("ZRANGE", keys.TASKS_PARKED, 0, 0)
    assert due(plant, task) == pytest.approx(begun + WINDOW, abs=1)


def test_asking_what_is_there_costs_nothing_and_an_index_with_three_children_reserves_four(
    plant: Plant, times: StoppedClock
) -> None:
    hub = limited(plant, 4, times)
    plant.registry.put(images.three_platforms("a"), "team/app", "1")
    for _ in range(3):
        assert plant.mirror("team/app:1").state == "succeeded"
    assert (hub.used, hub.refused) == (4, 0)
    assert len(plant.registry.log("api", method="HEAD")) == 3


def test_an_index_is_begun_whole_or_not_at_all_once_its_cost_is_known(plant: Plant, times: StoppedClock) -> None:
    hub = limited(plant, 6, times)
    plant.registry.put(images.three_platforms("a"), "team/app", "a")
    plant.registry.put(images.three_platforms("b"), "team/app", "b")
    plant.registry.put(images.image(images.layer("one", 100)), "team/app", "one")
    assert plant.mirror("team/app:a").state == "succeeded"
    second = plant.submit("team/app:b")
    assert plant.perform(second).state == "queued"
    assert hub.used == 5  # its root was read, and none of its children
    end_of_wait(plant, times)
    assert plant.mirror("team/app:one").state == "succeeded"
    assert plant.perform(second).state == "succeeded"
    assert (hub.used, hub.refused) == (4, 0)  # and its root not again


def test_what_the_bucket_holds_already_costs_nothing(plant: Plant, times: StoppedClock) -> None:
    """A tag for an image that another tag of the repository has brought. Another repository has to show the root."""
    hub = limited(plant, 10, times)
    image = images.three_platforms("a")
    plant.registry.put(image, "team/app", "1")
    plant.registry.put(image, "team/app", "2")
    plant.registry.put(image, "other/app", "2")
    assert plant.mirror("team/app:1").state == "succeeded"
    assert hub.used == 4
    again = plant.mirror("team/app:2", "elsewhere/app:2")
    assert (again.state, again.digest, hub.used) == ("succeeded", str(image.digest), 4)
    other = plant.mirror("other/app:2")
    assert (other.state, other.digest, hub.used) == ("succeeded", str(image.digest), 5)


def test_a_task_that_waited_for_another_reason_reads_no_manifest_twice(plant: Plant, times: StoppedClock) -> None:
    hub = limited(plant, 10, times)
    image = images.three_platforms("a")
    plant.registry.put(image, "team/app", "1")
    layer = next(iter(image.all_blobs()))
    Leases(plant.redis).take(keys.blob_lease(layer), 1)
    job = plant.submit("team/app:1")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blob_queue, "LONGEST_WAIT", 0.0)
        waiting = plant.perform(job).waiting_for
    assert waiting is not None
    assert (waiting.reason, hub.used) == ("blob_in_transfer", 4)
    plant.redis.call("DEL", keys.blob_lease(layer))
    end_of_wait(plant, times)
    assert (plant.perform(job).state, hub.used) == ("succeeded", 4)


def test_indexes_that_share_a_small_limit_do_not_use_it_up_with_their_roots(plant: Plant, times: StoppedClock) -> None:
    """Each costs a whole window; in the first one all their roots are read, and never again for nothing."""
    hub = limited(plant, 4, times)
    for name in "abcde":
        plant.registry.put(images.three_platforms(name), "team/app", name)
    jobs = [plant.submit(f"team/app:{name}") for name in "abcde"]
    for _ in range(7):
        if all(job.state == "succeeded" for job in perform_all(plant, jobs)):
            break
        end_of_wait(plant, times)
    assert {plant.store.job(job.id).state for job in jobs} == {"succeeded"}
    assert (hub.windows <= 7, hub.refused) == (True, 0)


def test_an_image_with_more_manifests_than_a_window_allows_comes_in_several(plant: Plant, times: StoppedClock) -> None:
    """It cannot be had without being refused once, but what was read in one window is not read in the next."""
    hub = limited(plant, 2, times)
    plant.registry.put(images.three_platforms("a"), "team/app", "1")
    job = plant.submit("team/app:1")
    for _ in range(4):
        if perform_all(plant, [job])[0].state == "succeeded":
            break
        end_of_wait(plant, times)
    assert plant.store.job(job.id).state == "succeeded"
    assert hub.windows <= 3


def test_a_limit_that_others_have_used_up_is_waited_for_when_the_registry_says_so(
    plant: Plant, times: StoppedClock
) -> None:
    """Its HEADs tell nothing here, so that the refusal is the first to tell."""
    hub = limited(plant, 1, times)
    plant.registry.script(lambda request, reply: without_limits(reply) if request.method == "HEAD" else None)
    plant.registry.put(images.image(images.layer("a", 100)), "team/app", "1")
    hub(Request("api", "GET", "/v2/other/manifests/1", {}, {}), Reply())
    job = plant.mirror("team/app:1")
    assert job.waiting_for is not None
    assert (job.waiting_for.reason, job.waiting_for.registry, hub.refused) == ("quota", plant.registry.host, 1)
    end_of_wait(plant, times)
    assert plant.perform(job).state == "succeeded"


def without_limits(reply: Reply) -> Reply:
    headers = {name: value for name, value in reply.headers.items() if "ratelimit" not in name}
    return replace(reply, headers=headers)
