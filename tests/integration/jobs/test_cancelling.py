"""Cancel a job while a worker copies its image, and retry it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from mirror.copying.cancellation import Cancellation, OperationCanceled
from mirror.jobs.cancel import cancel_job
from mirror.jobs.claim import HANDOVER
from mirror.jobs.heartbeat import CANCELED, Heartbeat
from mirror.jobs.retry import retry_job
from mirror.oci.digest import Digest
from mirror.queue import TaskQueue
from mirror.records.claims import Claim, Outcome
from mirror.records.job import Job
from mirror.records.task import Task
from mirror.redis import keys
from mirror.redis.client import open_client
from mirror.storage import layout
from tests.e2e.processes import eventually
from tests.support import images
from tests.support.fakes.registry import Reply, Request
from tests.support.harness import Harness
from tests.support.servers.process import free_port

MIB = 2**20


class HeldRequest:
    """Holds back the source's responses for one path, before or after some bytes, until it is opened."""

    def __init__(self, harness: Harness, path: str, *, after: int | None, times: int | None = None) -> None:
        self.reached, self.opened = threading.Event(), threading.Event()
        self._path, self._after, self._left = path, after, times
        harness.registry.script(self._hold)

    def _hold(self, request: Request, reply: Reply) -> Reply | None:
        if self._path not in request.path or self._left == 0 or self.opened.is_set():
            return None
        if self._left is not None:
            self._left -= 1
        self.reached.set()
        if self._after is None:
            assert self.opened.wait(60)
        else:
            reply.hold = (self._after, self.opened)
        return reply


@contextmanager
def working(harness: Harness, *jobs: Job) -> Iterator[list[threading.Thread]]:
    """Workers that perform the jobs, and have ended with the block."""
    threads = [threading.Thread(target=harness.run_tasks, args=(job,)) for job in jobs]
    for thread in threads:
        thread.start()
    yield threads
    for thread in threads:
        thread.join()


def ended(harness: Harness, job: Job) -> Job:
    def ask() -> Job | None:
        now = harness.jobs.job(job.id)
        return None if now.finished_at is None else now

    return eventually(ask, what="the job has ended")


def only_task(harness: Harness, job: Job) -> Task:
    [task] = harness.jobs.tasks(job.id, 1)
    return task


def claimed(harness: Harness, job: Job) -> Claim:
    task = only_task(harness, job)
    claim = harness.records.claim(task.id, task.fence)
    assert claim is not None
    return claim


def shown(harness: Harness) -> list[str]:
    """Every key by which a reader could find an image."""
    return [key for key in harness.stored() if "/repositories/" in key]


def fetches(harness: Harness, digest: Digest) -> int:
    return len(harness.registry.log("api", method="GET", path=str(digest)))


@pytest.mark.parametrize("size", [MIB, 40 * MIB], ids=["one part", "several parts"])
def test_a_copy_stops_in_the_middle_of_a_blob_and_leaves_only_whole_blobs(harness: Harness, size: int) -> None:
    big, small = images.layer("big", size), images.layer("small")
    harness.registry.put(images.image(big, small), "team/app", "1")
    release = HeldRequest(harness, str(big.digest), after=1000)
    job = harness.submit("team/app:1")
    with working(harness, job):
        assert release.reached.wait(20)
        eventually(lambda: layout.blob_key(small.digest) in harness.stored(), what="the small blob is there")
        assert cancel_job(harness.jobs, job.id).state == "running"
    canceled = harness.jobs.job(job.id)
    assert (canceled.state, canceled.error, canceled.images.canceled) == ("canceled", None, 1)
    assert (shown(harness), harness.bucket.uploads.list_open("")) == ([], [])
    assert harness.redis.call("EXISTS", keys.blob_checkpoint(big.digest), keys.blob_lease(big.digest)) == 0
    assert layout.blob_key(big.digest) not in harness.stored()

    release.opened.set()
    assert retry_job(harness.jobs, harness.core.queue, job.id).state == "queued"
    assert harness.run_tasks(job).state == "succeeded"
    assert fetches(harness, small.digest) == 1


def test_a_registry_that_does_not_answer_cannot_hold_a_canceled_job_up(harness: Harness) -> None:
    """Its worker does not wait for it, and its late answer does not bring the image, whose blobs are there already."""
    harness.registry.put(images.image(images.layer("a")), "team/app", "1")
    harness.mirror("team/app:1", "copy/app:1")
    before = shown(harness)
    release = HeldRequest(harness, "/manifests/", after=None)
    job = harness.submit("team/app:1")
    with working(harness, job) as [worker]:
        assert release.reached.wait(20)
        cancel_job(harness.jobs, job.id)
        assert ended(harness, job).state == "canceled"
        worker.join(30)
        assert not worker.is_alive()
        release.opened.set()
    assert harness.jobs.job(job.id).state == "canceled"
    assert shown(harness) == before


def test_a_job_that_was_retried_is_not_touched_by_the_worker_that_was_held_up(harness: Harness) -> None:
    image = images.image(images.layer("a"))
    harness.registry.put(image, "team/app", "1")
    release = HeldRequest(harness, "/manifests/", after=None, times=1)
    job = harness.submit("team/app:1")
    with working(harness, job):
        assert release.reached.wait(20)
        cancel_job(harness.jobs, job.id)
        ended(harness, job)
        retry_job(harness.jobs, harness.core.queue, job.id)
        assert harness.run_tasks(job).state == "succeeded"
        release.opened.set()
    after = harness.jobs.job(job.id)
    assert (after.state, after.digest, after.images.succeeded) == ("succeeded", str(image.digest), 1)


@pytest.mark.parametrize(
    "answer", [Reply(404), Reply(403), Reply(429, {"Retry-After": "120"})], ids=["fails", "is denied", "has to wait"]
)
def test_what_the_source_says_behind_a_cancellation_does_not_count(harness: Harness, answer: Reply) -> None:
    harness.registry.put(images.image(images.layer("a")), "team/app", "1")
    job = harness.submit("team/app:1")

    def cancel_and_answer(request: Request, _: Reply) -> Reply:
        cancel_job(harness.jobs, job.id)
        return answer

    harness.registry.script(cancel_and_answer)
    done = harness.run_tasks(job)
    assert (done.state, done.error, done.waiting_for) == ("canceled", None, None)
    assert harness.core.recovery.unpark(only_task(harness, job).id) == []


def test_another_job_that_waits_for_the_canceled_ones_blob_goes_on_with_it(harness: Harness) -> None:
    base = images.layer("base", 20 * MIB)
    harness.registry.put(images.image(base, images.layer("one")), "team/one", "1")
    harness.registry.put(images.image(base, images.layer("two")), "team/two", "1")
    release = HeldRequest(harness, str(base.digest), after=1000)
    first, second = harness.submit("team/one:1"), harness.submit("team/two:1")
    with working(harness, first):
        assert release.reached.wait(20)
        with working(harness, second):
            eventually(lambda: harness.registry.log(path="/v2/team/two/blobs/"), what="the second job copies")
            cancel_job(harness.jobs, first.id)
            assert ended(harness, first).state == "canceled"
            release.opened.set()
    assert harness.jobs.job(second.id).state == "succeeded"
    assert harness.bucket.uploads.list_open("") == []


def test_a_task_that_is_handed_over_while_its_job_is_canceled_is_not_queued(harness: Harness) -> None:
    """As the watchdog of the work horse does it, which knows nothing of the copy."""
    job = harness.submit("team/app:1")
    claim = claimed(harness, job)
    cancel_job(harness.jobs, job.id)
    harness.core.settler.hand_over([claim], HANDOVER)
    assert harness.jobs.job(job.id).state == "canceled"
    assert not harness.core.queue.holds(claim.task.id, claim.fence)


def test_the_task_of_a_dead_worker_ends_with_its_lease(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mirror.redis.client.Redis.uptime", lambda _: 3600)
    job = harness.submit("team/app:1")
    claim = claimed(harness, job)
    cancel_job(harness.jobs, job.id)
    harness.redis.call("ZADD", keys.TASKS_RUNNING, 1, claim.task.id)
    harness.reconcile()
    assert harness.jobs.job(job.id).state == "canceled"
    assert not harness.core.queue.holds(claim.task.id, claim.fence)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give canceled work no time to clean up. A heartbeat notices the cancellation only by reading the state."""
    monkeypatch.setattr("mirror.jobs.heartbeat._CLEANUP_SECONDS", 0.0)
    monkeypatch.setattr("mirror.jobs.heartbeat.LEASE_SECONDS", 10**6)


@contextmanager
def beating(harness: Harness, claim: Claim, cancellation: Cancellation) -> Iterator[Heartbeat]:
    heartbeat = harness.core.heartbeats.start(claim, cancellation)
    yield heartbeat
    heartbeat.end(failed=False)


@pytest.mark.usefixtures("impatient")
def test_an_image_that_is_being_published_is_left_to_end(harness: Harness) -> None:
    job = harness.submit("team/app:1")
    claim, cancellation = claimed(harness, job), Cancellation()
    with beating(harness, claim, cancellation) as heartbeat:
        heartbeat.begin_publishing()
        cancel_job(harness.jobs, job.id)
        eventually(cancellation.is_set, what="the worker has noticed it")
    assert harness.jobs.job(job.id).state == "running"
    assert harness.records.settle(claim, "succeeded", Outcome())
    assert harness.jobs.job(job.id).state == "succeeded"


@pytest.mark.usefixtures("impatient")
def test_nothing_is_published_once_the_worker_has_noticed_the_cancellation(harness: Harness) -> None:
    job = harness.submit("team/app:1")
    claim, cancellation = claimed(harness, job), Cancellation()
    with beating(harness, claim, cancellation) as heartbeat:
        cancel_job(harness.jobs, job.id)
        eventually(cancellation.is_set, what="the worker has noticed it")
        with pytest.raises(OperationCanceled, match=CANCELED) as stopped:
            heartbeat.begin_publishing()
    assert not stopped.value.resumable
    assert harness.jobs.job(job.id).state == "canceled"


def test_a_retry_is_accepted_though_its_entry_cannot_be_put_and_the_reconciler_puts_it(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mirror.jobs.reconcile.ENTRY_SECONDS", -1)
    nowhere = open_client(f"redis://127.0.0.1:{free_port()}", retries=0, decode_responses=False)
    job = harness.submit("team/app:1")
    cancel_job(harness.jobs, job.id)
    assert retry_job(harness.jobs, TaskQueue(nowhere), job.id).state == "queued"
    task = only_task(harness, job)
    assert not harness.core.queue.holds(task.id, task.fence)
    harness.reconcile()
    assert harness.core.queue.holds(task.id, task.fence)


def test_a_retry_mirrors_what_the_tag_shows_now(harness: Harness) -> None:
    old, new = images.image(images.layer("old")), images.image(images.layer("new"))
    harness.registry.put(old, "team/app", "1")
    down = threading.Event()
    down.set()
    harness.registry.script(lambda q, _: Reply(403) if "/blobs/" in q.path and down.is_set() else None)
    job = harness.submit("team/app:1")
    assert harness.run_tasks(job).state == "failed"
    down.clear()
    harness.registry.put(new, "team/app", "1")
    retry_job(harness.jobs, harness.core.queue, job.id)
    done = harness.run_tasks(job)
    assert (done.state, done.attempt, done.digest) == ("succeeded", 2, str(new.digest))
    total = sum(map(len, new.blobs.values()))
    assert (done.bytes.total, done.bytes.copied) == (total, total)
    assert len(harness.jobs.blobs_of([only_task(harness, job).id])[0]) == len(new.blobs)
