"""Tags that are already mirrored: checked in batches, settled together, and copied if they have changed."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from mirror.copying.cancellation import Cancellation
from mirror.jobs.cancel import cancel_job
from mirror.jobs.claim import HANDOVER
from mirror.locks.lease import Leases
from mirror.records.job import Job
from mirror.records.states import FAIR_SHARE
from mirror.redis import keys
from mirror.storage import layout
from mirror.storage.provenance import ProvenanceStore
from tests.conftest import on_both_s3_servers, requested_s3_server
from tests.e2e.processes import eventually
from tests.integration.worker.test_task_pool import held_back, lost
from tests.support import images
from tests.support.fakes.registry import Reply, Request
from tests.support.harness import Harness
from tests.support.servers import S3Server


@pytest.fixture
def s3_server(request: pytest.FixtureRequest) -> S3Server:
    """Most tests are about the source and Redis. Those about the bucket are marked."""
    return requested_s3_server(request)


def content(number: int, version: str = "old") -> images.TestImage:
    return images.image(images.layer(f"{version} {number}"))


def source(number: int) -> str:
    return f"team/app:v{number}"


def mirrored(harness: Harness, count: int) -> None:
    """Hold *count* tags of one repository, each with an image of its own."""
    for number in range(count):
        harness.registry.put(content(number), "team/app", f"v{number}")
    assert harness.run_work_horses(submitted(harness, count)).state == "succeeded"


def submitted(harness: Harness, count: int) -> Job:
    return harness.submit_all(*((source(number), f"prod/app:v{number}") for number in range(count)))


def changed(harness: Harness, numbers: Sequence[int]) -> None:
    for number in numbers:
        harness.registry.put(content(number, "new"), "team/app", f"v{number}")


def asked(harness: Harness, since: int) -> list[str]:
    return [request.method for request in harness.registry.log()[since:]]


def shown(harness: Harness, number: int) -> str:
    return str(harness.core.links.current("prod/app", f"v{number}"))


def hold_heads(harness: Harness, path: str = "/manifests/", *, times: int = 1_000) -> threading.Event:
    """Hold back the responses to the next HEADs of a path until the event is set."""
    release, left = threading.Event(), iter(range(times))

    def hold(request: Request, _: Reply) -> None:
        if request.method == "HEAD" and path in request.path and next(left, None) is not None:
            assert release.wait(60)

    harness.registry.script(hold)
    return release


@on_both_s3_servers
def test_tags_that_have_not_changed_cost_one_request_each_and_write_nothing(harness: Harness) -> None:
    mirrored(harness, 24)
    stored, before = harness.stored(), len(harness.registry.log())
    job = harness.run_work_horses(submitted(harness, 24))
    assert (job.state, job.images.succeeded, job.images.unchanged) == ("succeeded", 24, 24)
    assert asked(harness, before) == ["HEAD"] * 24
    assert harness.stored() == stored
    tasks = harness.jobs.tasks(job.id, 24)
    assert [task.digest for task in tasks] == [str(content(number).digest) for number in range(24)]


@on_both_s3_servers
def test_the_bucket_is_not_asked_where_unchanged_tags_came_from(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirrored(harness, 3)
    asked_for: list[object] = []
    monkeypatch.setattr(ProvenanceStore, "has_served", lambda *which, **_: asked_for.append(which))
    assert harness.run_work_horses(submitted(harness, 3)).images.unchanged == 3
    assert harness.mirror(source(1), "prod/app:v1").images.unchanged == 1
    assert asked_for == []


@on_both_s3_servers
def test_another_source_of_the_same_images_is_remembered_when_the_bucket_has_told_of_it(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if a registry got a new name. The first job reads each manifest, later ones send HEADs as usual."""
    mirrored(harness, 6)
    for number in range(6):
        harness.registry.put(content(number), "moved/app", f"v{number}")

    def again() -> list[str]:
        before = len(harness.registry.log())
        job = harness.submit_all(*((f"moved/app:v{number}", f"prod/app:v{number}") for number in range(6)))
        assert harness.run_work_horses(job).images.unchanged == 6
        return asked(harness, before)

    assert sorted(again()) == ["GET"] * 6 + ["HEAD"] * 6
    monkeypatch.setattr(ProvenanceStore, "has_served", lambda *_, **__: pytest.fail("the bucket was asked"))
    assert again() == ["HEAD"] * 6
    entry = harness.core.index.entry("prod/app", "v0")
    assert entry
    assert (entry.source, entry.also_from) == (
        f"{harness.registry.host}/team/app:v0",
        (f"{harness.registry.host}/moved/app",),
    )


@on_both_s3_servers
def test_changed_tags_among_unchanged_ones_are_mirrored(harness: Harness) -> None:
    mirrored(harness, 24)
    new = range(5, 24, 3)
    changed(harness, new)
    job = harness.run_work_horses(submitted(harness, 24))
    assert (job.state, job.images.succeeded, job.images.unchanged) == ("succeeded", 24, 24 - len(new))
    for number in range(24):
        assert shown(harness, number) == str(content(number, "new" if number in new else "old").digest)
    assert {task.attempt for task in harness.jobs.tasks(job.id, 24)} == {1}


def test_changed_tags_beyond_the_share_of_a_work_horse_are_left_to_others(harness: Harness) -> None:
    mirrored(harness, 12)
    changed(harness, range(12))
    release, before = held_back(harness, "/blobs/"), len(harness.registry.log())
    job = submitted(harness, 12)

    def nine_were_given_back() -> bool:
        """Nothing is mirrored before all twelve were taken from the queue and looked at."""
        is_mirroring = any("/blobs/" in request.path for request in harness.registry.log()[before:])
        return is_mirroring and len(harness.core.queue.page(0, 10)) == 9

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(harness.pool(at_once=3).run, *harness.take())
        eventually(nine_were_given_back, what="nine of twelve were given back")
        assert harness.jobs.job(job.id).images.running == 3
        second = pool.submit(harness.pool(at_once=9).run, *harness.take())
        eventually(lambda: harness.jobs.job(job.id).images.running == 12, what="another work horse has the rest")
        release.set()
        first.result(60)
        second.result(60)
    job = harness.jobs.job(job.id)
    assert (job.state, job.images.succeeded, job.images.unchanged, job.attempt) == ("succeeded", 12, 0, 1)


@on_both_s3_servers
def test_a_tag_that_the_bucket_has_lost_is_mirrored_again_though_the_index_lists_it(harness: Harness) -> None:
    mirrored(harness, 14)
    stored = harness.stored()
    harness.bucket.delete([layout.tag_current_key("prod/app", "v7")])
    job = harness.run_work_horses(submitted(harness, 14))
    assert (job.state, job.images.unchanged) == ("succeeded", 13)
    assert harness.stored() == stored


@on_both_s3_servers
def test_a_tag_whose_link_is_damaged_is_mirrored_again_and_affects_no_other(harness: Harness) -> None:
    mirrored(harness, 3)
    harness.bucket.put(layout.tag_current_key("prod/app", "v1"), b"no digest at all")
    job = harness.run_work_horses(submitted(harness, 3))
    assert (job.images.unchanged, job.images.failed) == (2, 1)
    assert job.error is not None
    assert job.error.code == "STORAGE_DAMAGED"


def test_a_source_that_does_not_respond_delays_no_other_tag(harness: Harness) -> None:
    mirrored(harness, 16)
    release, job = hold_heads(harness, "/manifests/v3"), submitted(harness, 16)
    with ThreadPoolExecutor(1) as pool:
        working = pool.submit(harness.pool().run, *harness.take())
        eventually(lambda: harness.jobs.job(job.id).images.unchanged == 15, what="the others have ended")
        release.set()
        working.result(60)
    assert harness.jobs.job(job.id).images.unchanged == 16


def test_a_source_that_has_gone_fails_its_own_task(harness: Harness) -> None:
    mirrored(harness, 5)
    harness.registry.script(lambda q, _: Reply(404) if q.path.endswith("/manifests/v2") else None)
    job = harness.run_work_horses(submitted(harness, 5))
    assert (job.state, job.images.unchanged, job.images.failed) == ("partial", 4, 1)
    assert job.error is not None
    assert job.error.code == "MANIFEST_UNKNOWN"


def test_a_source_without_head_is_asked_for_its_manifest(harness: Harness) -> None:
    mirrored(harness, 3)
    harness.registry.script(lambda q, _: Reply(405) if q.method == "HEAD" else None)
    job = harness.run_work_horses(submitted(harness, 3))
    assert (job.state, job.images.succeeded) == ("succeeded", 3)


def test_an_interrupted_work_horse_hands_over_the_tasks_that_it_checks(harness: Harness) -> None:
    mirrored(harness, 14)
    release, cancellation, job = hold_heads(harness), Cancellation(), submitted(harness, 14)
    before = len(harness.registry.log())
    with ThreadPoolExecutor(1) as pool:
        working = pool.submit(harness.pool(cancellation).run, *harness.take())
        eventually(lambda: len(asked(harness, before)) >= 8, what="their sources are asked")
        cancellation.cancel(HANDOVER)
        release.set()
        working.result(60)
    done = harness.run_work_horses(job)
    assert (done.state, done.images.succeeded, done.images.unchanged, done.attempt) == ("succeeded", 14, 14, 1)


def test_a_job_that_is_canceled_during_the_check_ends_without_its_source(harness: Harness) -> None:
    mirrored(harness, 4)
    release, job = hold_heads(harness), submitted(harness, 4)
    before = len(harness.registry.log())
    with ThreadPoolExecutor(1) as pool:
        working = pool.submit(harness.pool().run, *harness.take())
        eventually(lambda: len(asked(harness, before)) == 4, what="their sources are asked")
        cancel_job(harness.jobs, job.id)
        eventually(lambda: harness.jobs.job(job.id).state == "canceled", what="the job has ended")
        release.set()
        working.result(60)
    assert harness.jobs.job(job.id).images.canceled == 4


@on_both_s3_servers
def test_a_tag_that_another_job_is_changing_is_waited_for(harness: Harness) -> None:
    mirrored(harness, 3)
    assert Leases(harness.redis).take(keys.tag_lease("prod/app", "v1"), 1.0)
    job = harness.run_work_horses(submitted(harness, 3))
    assert (job.state, job.images.unchanged) == ("succeeded", 3)


def test_two_tasks_for_one_tag_in_one_batch_both_end(harness: Harness) -> None:
    mirrored(harness, 1)
    jobs = [submitted(harness, 1), submitted(harness, 1)]
    harness.pool().run(*harness.take())
    assert [harness.jobs.job(job.id).images.unchanged for job in jobs] == [1, 1]


@on_both_s3_servers
def test_a_job_that_asked_its_source_before_a_later_one_is_superseded(harness: Harness) -> None:
    """The earlier HEAD is held back until the later job has moved the tag."""
    mirrored(harness, 1)
    before, release = len(harness.registry.log()), hold_heads(harness, times=1)
    earlier = submitted(harness, 1)
    with ThreadPoolExecutor(1) as pool:
        working = pool.submit(harness.pool(tasks=0).run, *harness.take())
        eventually(lambda: asked(harness, before), what="the earlier job has asked")
        changed(harness, [0])
        later = harness.run_tasks(submitted(harness, 1))
        release.set()
        working.result(60)
    [task] = harness.jobs.tasks(earlier.id, 1)
    assert (task.state, task.digest, task.superseded_by) == ("succeeded", str(content(0).digest), later.id)
    assert shown(harness, 0) == str(content(0, "new").digest)


@on_both_s3_servers
def test_each_task_waits_for_an_s3_that_is_down(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    mirrored(harness, 3)
    endpoint = harness.bucket
    job = submitted(harness, 3)
    monkeypatch.setattr(endpoint, "name", "a-bucket-that-is-not-there")
    harness.run_work_horses(job)
    assert harness.jobs.job(job.id).images.unchanged == 0
    assert harness.jobs.job(job.id).state in ("failed", "queued")


def test_a_task_that_lost_its_worker_is_not_checked_with_others(harness: Harness) -> None:
    mirrored(harness, 6)
    jobs = [harness.submit(source(number), f"prod/app:v{number}") for number in range(6)]
    lost(harness, jobs[3])
    harness.pool().run(*harness.take())
    assert [harness.jobs.job(job.id).state for job in jobs] == ["succeeded"] * 3 + ["queued"] * 3
    assert harness.run_work_horses(jobs[3]).images.unchanged == 1


def test_new_images_among_unchanged_ones_do_not_fill_the_work_horse(harness: Harness) -> None:
    """A new image is noticed only after its claim. Beyond the share of the work horse it is handed back."""
    old, new = FAIR_SHARE + 2, 12  # the first entries of both lanes are of old images
    mirrored(harness, old)
    for number in range(old, old + new):
        harness.registry.put(content(number), "team/app", f"v{number}")
    release, job = held_back(harness, "/blobs/"), submitted(harness, old + new)
    with ThreadPoolExecutor(1) as pool:
        working = pool.submit(harness.pool(at_once=2).run, *harness.take())
        eventually(
            lambda: (harness.jobs.job(job.id).images.unchanged, harness.jobs.job(job.id).images.running) == (old, 2),
            what="what was there has ended, and two are mirrored",
        )
        release.set()
        working.result(60)
    done = harness.jobs.job(job.id)
    assert (done.state, done.images.succeeded, done.images.unchanged) == ("succeeded", old + new, old)
    assert done.attempt == 1
