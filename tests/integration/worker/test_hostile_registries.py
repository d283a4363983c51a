"""Registries that never finish a response, next to an honest one: how much of a work horse they block, and how long."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from mirror.copying.cancellation import Cancellation
from mirror.jobs.cancel import cancel_job
from mirror.jobs.claim import HANDOVER
from mirror.records.job import Job
from mirror.records.job_request import ImageRequest
from tests.e2e.processes import eventually
from tests.integration.worker.test_task_pool import states
from tests.support import images
from tests.support.fakes import faults
from tests.support.fakes.registry import FakeRegistry, Reply, Tokens
from tests.support.fakes.sockets import DrippingServer
from tests.support.harness import Harness
from tests.support.servers.s3 import RcloneS3

OK = b"HTTP/1.1 200 OK\r\n"
NO_HEAD = b"HTTP/1.1 405 Method Not Allowed\r\nContent-Length: 0\r\n\r\n"
HOLDING = {
    "a head": (b"", b"a"),
    "interim answers": (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "a manifest": (OK + b"Content-Length: 100000\r\n\r\n", b"a"),
    "trailers": (OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n", b"X: a\r\n"),
    "silence": (b"", b""),
}


@pytest.fixture
def s3_server(rclone_s3: RcloneS3) -> RcloneS3:
    """One is enough: the bucket plays no part here."""
    return rclone_s3


@pytest.fixture
def dripping() -> Iterator[DrippingServer]:
    with DrippingServer(b"") as server:
        yield server


@pytest.fixture
def luring(dripping: DrippingServer) -> Iterator[FakeRegistry]:
    """A registry that is honest but for what a test makes it say."""
    with FakeRegistry() as fake:
        yield fake


@pytest.fixture
def insecure_hosts(registry: FakeRegistry, dripping: DrippingServer, luring: FakeRegistry) -> frozenset[str]:
    return frozenset({registry.host, dripping.host, luring.host})


def hostile(harness: Harness, host: str, count: int) -> list[Job]:
    """So many jobs for images of a registry, each in a repository of its own."""
    return [
        harness.core.submitter.submit([ImageRequest(f"{host}/team/app{n}:1", f"bad/app{n}:1")])[0] for n in range(count)
    ]


def honest(harness: Harness, name: str = "honest") -> Job:
    harness.registry.put(images.image(images.layer(name)), f"team/{name}", "1")
    return harness.submit(f"team/{name}:1")


def put_images(registry: FakeRegistry, count: int, version: str = "old") -> None:
    for number in range(count):
        registry.put(images.image(images.layer(f"{version} {number}")), f"team/app{number}", "1")


def succeeded(harness: Harness, job: Job) -> Callable[[], bool]:
    return lambda: harness.jobs.job(job.id).state == "succeeded"


def cancel(harness: Harness, jobs: list[Job]) -> None:
    for job in jobs:
        if harness.jobs.job(job.id).finished_at is None:
            cancel_job(harness.jobs, job.id)


@contextmanager
def working(
    harness: Harness, *jobs: Job, tasks: int = 1_000, cancellation: Cancellation | None = None
) -> Iterator[None]:
    """Run a work horse. At the end of the block the jobs are canceled, which ends it."""
    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(harness.pool(cancellation, tasks=tasks).run, *harness.take())
        try:
            yield
        finally:
            cancel(harness, list(jobs))
            done.result(30)


@pytest.mark.parametrize(("head", "drip"), HOLDING.values(), ids=HOLDING.keys())
def test_cancel_closes_every_connection_at_once_and_an_honest_job_succeeds(
    harness: Harness, dripping: DrippingServer, head: bytes, drip: bytes
) -> None:
    """Long before the deadlines, which are a minute."""
    dripping.head, dripping.drip, dripping.look = head, drip, NO_HEAD if head else b""
    jobs = hostile(harness, dripping.host, 8)
    with working(harness, *jobs):
        eventually(lambda: dripping.listeners == 8, what="all eight wait for the registry")
        cancel(harness, jobs)
        eventually(lambda: dripping.listeners == 0, what="all connections are closed")
    assert states(harness, jobs) == ["canceled"] * 8
    job = honest(harness)
    harness.pool().run(*harness.take())
    assert succeeded(harness, job)()


@pytest.mark.parametrize("held_by", ["its token server", "the target of its blobs"])
def test_cancel_closes_connections_to_where_a_registry_leads_as_well(
    harness: Harness, dripping: DrippingServer, luring: FakeRegistry, held_by: str
) -> None:
    put_images(luring, 8)
    if held_by == "its token server":
        luring.tokens = Tokens(realm=f"http://{dripping.host}/token")
    else:
        target = Reply(307, {"Location": f"http://{dripping.host}/blob"})
        luring.script(faults.faulty(lambda _: target, path="/blobs/"))
    jobs = hostile(harness, luring.host, 8)
    with working(harness, *jobs):
        eventually(lambda: dripping.listeners >= 8, what="all eight wait for the registry")
        cancel(harness, jobs)
        eventually(lambda: dripping.listeners == 0, what="all connections are closed")
    assert states(harness, jobs) == ["canceled"] * 8


def test_cancel_ends_the_wait_for_a_token_that_another_thread_fetches(
    harness: Harness, dripping: DrippingServer, luring: FakeRegistry
) -> None:
    put_images(luring, 1)
    luring.tokens = Tokens(realm=f"http://{dripping.host}/token")
    submit = harness.core.submitter.submit
    jobs = [submit([ImageRequest(f"{luring.host}/team/app0:1", f"bad/app{n}:1")])[0] for n in range(4)]
    with working(harness, *jobs):
        eventually(lambda: dripping.listeners == 1 and len(luring.log()) >= 4, what="one asks, three wait for it")
        cancel(harness, jobs)
        eventually(lambda: states(harness, jobs) == ["canceled"] * 4, what="all have ended")
    assert dripping.listeners == 0


def test_a_work_horse_that_is_to_stop_closes_every_connection_at_once_and_hands_its_tasks_over(
    harness: Harness, dripping: DrippingServer
) -> None:
    jobs, cancellation = hostile(harness, dripping.host, 8), Cancellation()
    with working(harness, cancellation=cancellation):
        eventually(lambda: dripping.listeners == 8, what="all eight wait for the registry")
        cancellation.cancel(HANDOVER)
        eventually(lambda: dripping.listeners == 0, what="all connections are closed")
    assert states(harness, jobs) == ["queued"] * 8
    assert {harness.jobs.job(job.id).attempt for job in jobs} == {1}


@pytest.mark.parametrize(("head", "drip"), HOLDING.values(), ids=HOLDING.keys())
def test_an_honest_job_behind_thirty_of_a_hostile_registry_succeeds_while_they_hang(
    harness: Harness, dripping: DrippingServer, head: bytes, drip: bytes
) -> None:
    dripping.head, dripping.drip, dripping.look = head, drip, NO_HEAD if head else b""
    jobs = hostile(harness, dripping.host, 30)
    good = honest(harness)
    with working(harness, *jobs):
        eventually(succeeded(harness, good), what="the honest job has succeeded")
        assert dripping.listeners == 8
        assert sorted(states(harness, jobs)) == ["queued"] * 22 + ["running"] * 8
    assert dripping.listeners == 0


def test_an_honest_job_succeeds_while_two_hostile_registries_have_all_usual_slots(
    harness: Harness, dripping: DrippingServer, luring: FakeRegistry
) -> None:
    put_images(luring, 6)
    release = threading.Event()
    luring.script(faults.faulty(faults.held_until(release), path="/manifests/"))
    jobs = [
        job
        for pair in zip(hostile(harness, dripping.host, 6), hostile_at(harness, luring, 6), strict=True)
        for job in pair
    ]
    good = honest(harness)
    with working(harness, *jobs):
        eventually(succeeded(harness, good), what="the honest job has succeeded")
        assert states(harness, jobs).count("running") >= 8
    release.set()


def hostile_at(harness: Harness, registry: FakeRegistry, count: int) -> list[Job]:
    return [
        harness.core.submitter.submit([ImageRequest(f"{registry.host}/team/app{n}:1", f"more/app{n}:1")])[0]
        for n in range(count)
    ]


def test_a_work_horse_that_takes_no_more_tasks_still_begins_those_of_other_registries(
    harness: Harness, dripping: DrippingServer
) -> None:
    """One hostile task must not keep a worker from all others until its work horse ends."""
    jobs = hostile(harness, dripping.host, 3)
    good = [honest(harness, f"honest{n}") for n in range(3)]
    with working(harness, *jobs, tasks=1):
        for job in good:
            eventually(succeeded(harness, job), what="an honest job has succeeded")
        assert states(harness, jobs) == ["running", "running", "queued"]


def test_unchanged_tags_are_settled_while_looks_at_a_hostile_registry_hang(
    harness: Harness, luring: FakeRegistry
) -> None:
    put_images(luring, 14)
    bad = [(f"{luring.host}/team/app{n}:1", f"bad/app{n}:1") for n in range(14)]
    for number in range(3):
        harness.registry.put(images.image(images.layer(f"good {number}")), f"team/good{number}", "1")
    good = [(f"{harness.registry.host}/team/good{n}:1", f"good/app{n}:1") for n in range(3)]

    def submitted(pairs: list[tuple[str, str]]) -> Job:
        return harness.core.submitter.submit([ImageRequest(*pair) for pair in pairs])[0]

    for pairs in (bad, good):
        assert harness.run_tasks(submitted(pairs)).state == "succeeded"
        while harness.core.queue.take(100):
            pass
    never = threading.Event()
    luring.script(lambda request, _: hold(never) if request.method == "HEAD" else None)
    changed = images.image(images.layer("changed"))
    harness.registry.put(changed, "team/good1", "1")
    hostile_job, honest_job = submitted(bad), submitted(good)
    with working(harness, hostile_job):
        eventually(succeeded(harness, honest_job), what="the honest job has succeeded")
        assert harness.jobs.job(hostile_job.id).images.unchanged == 0
        assert harness.jobs.job(honest_job.id).images.unchanged == 2
    never.set()


def hold(event: threading.Event) -> None:
    assert event.wait(60)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mirror.http.deadlines.REQUEST_SECONDS", 0.3)


@pytest.mark.usefixtures("impatient")
def test_a_hundred_jobs_of_a_hostile_registry_cost_it_a_few_requests_and_no_slot_for_long(
    harness: Harness, dripping: DrippingServer
) -> None:
    """Jobs that asked the registry fail at their deadlines. The others fail at once, because the breaker is open."""
    job = harness.core.submitter.submit(
        [ImageRequest(f"{dripping.host}/team/app{n}:1", f"bad/app{n}:1") for n in range(100)]
    )[0]
    good = honest(harness)
    harness.pool().run(*harness.take())
    assert succeeded(harness, good)()
    done = harness.jobs.job(job.id)
    assert (done.state, done.images.failed) == ("failed", 100)
    assert done.error is not None
    assert done.error.code == "SOURCE_FAILED"
    assert "did not finish its answer within" in done.error.message
    assert dripping.accepted < 30
    assert dripping.listeners == 0


@pytest.mark.usefixtures("impatient")
def test_the_task_of_a_registry_that_is_known_to_work_is_parked_at_its_deadline(
    harness: Harness, luring: FakeRegistry, dripping: DrippingServer
) -> None:
    put_images(luring, 2)
    first, second = hostile(harness, luring.host, 2)
    assert harness.run_tasks(first).state == "succeeded"
    target = Reply(307, {"Location": f"http://{dripping.host}/manifest"})
    luring.script(faults.faulty(lambda _: target, path="/manifests/"))
    waiting = harness.run_tasks(second)
    assert waiting.waiting_for is not None
    assert (waiting.state, waiting.waiting_for.reason) == ("queued", "registry_failing")
    assert dripping.accepted == 1
    luring.scripts.clear()


REFUSALS = {
    "401": b"HTTP/1.1 401 No\r\nWWW-Authenticate: Basic realm=x\r\nContent-Length: 1000\r\n\r\n",
    "307": b"HTTP/1.1 307 Go\r\nLocation: /v2/\r\nContent-Length: 1000\r\n\r\n",
    "404": b"HTTP/1.1 404 No\r\nContent-Length: 1000\r\n\r\n",
}


@pytest.mark.parametrize("head", REFUSALS.values(), ids=REFUSALS.keys())
def test_a_refusal_whose_body_never_ends_fails_its_job_and_holds_nothing(
    harness: Harness, dripping: DrippingServer, monkeypatch: pytest.MonkeyPatch, head: bytes
) -> None:
    """Long before the deadline of a request, which is a minute."""
    monkeypatch.setattr("mirror.http.deadlines.DRAIN_SECONDS", 0.1)
    dripping.head, dripping.look = head, NO_HEAD
    jobs = hostile(harness, dripping.host, 8)
    good = honest(harness)
    harness.pool().run(*harness.take())
    assert states(harness, jobs) == ["failed"] * 8
    assert succeeded(harness, good)()
    assert dripping.accepted >= 8
    eventually(lambda: dripping.listeners == 0, what="all connections are closed")


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("head", REFUSALS.values(), ids=REFUSALS.keys())
def test_a_refusal_with_a_body_where_none_may_be_holds_nothing_beyond_the_deadline(
    harness: Harness, dripping: DrippingServer, head: bytes
) -> None:
    """A HEAD has no body: what comes after its answer is taken for the next one."""
    dripping.head = head
    jobs = hostile(harness, dripping.host, 8)
    good = honest(harness)
    harness.pool().run(*harness.take())
    assert states(harness, jobs) == ["failed"] * 8
    assert succeeded(harness, good)()
