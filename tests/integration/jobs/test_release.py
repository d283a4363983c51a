"""The release of an atomic job: all of its tags move, or none of them."""

from __future__ import annotations

import random
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from mirror.copying.cancellation import Cancellation
from mirror.errors import StorageRefused, StorageUnavailable
from mirror.jobs.cancel import cancel_job
from mirror.jobs.retry import retry_job
from mirror.oci.digest import Digest
from mirror.oci.local_image import LocalImage
from mirror.queue import NORMAL
from mirror.records.job import Job, JobOptions
from mirror.records.job_request import ImageRequest
from mirror.redis import keys
from mirror.storage import layout
from mirror.storage.releases import ReleaseJournals
from tests.support import images
from tests.support.fakes import faults
from tests.support.harness import Harness, mark_built
from tests.support.release_set import ReleaseSet, Shown, replaced_write


def error_code(job: Job) -> str | None:
    return job.error.code if job.error else None


def test_all_tags_move_when_all_images_were_copied(harness: Harness) -> None:
    mark_built(harness.redis)
    tags = ReleaseSet.of(harness, 16, fresh=4)
    job = tags.run()
    assert job.state == "succeeded", job.error
    assert job.release_window is not None
    assert (job.images.total, job.images.succeeded) == (20, 20)
    assert tags.shown() == tags.new
    assert tags.listed() == tags.new
    assert tags.journals() == []
    assert harness.core.index.tags("team/app-19", limit=5) == (["1"], None)


def test_one_image_that_fails_keeps_all_tags_where_they_are(harness: Harness) -> None:
    tags = ReleaseSet.of(harness, 16, fresh=4)
    harness.registry.script(faults.faulty(faults.status(404), path="source/team/app-7/manifests/1"))
    before = [key for key in harness.stored() if "/_manifests/tags/" in key]
    job = tags.run()
    assert job.state == "failed"
    assert error_code(job) == "MANIFEST_UNKNOWN"
    assert (job.images.succeeded, job.images.failed) == (19, 1)
    assert tags.shown() == tags.old
    assert tags.listed() == tags.old
    assert [key for key in harness.stored() if "/_manifests/tags/" in key] == before
    assert tags.journals() == []


def test_a_retry_copies_only_what_failed_and_then_moves_all_tags(harness: Harness) -> None:
    tags = ReleaseSet.of(harness, 3, fresh=1)
    harness.registry.script(faults.faulty(faults.status(404), path="source/team/app-2/manifests/1", times=3))
    job = tags.run()
    assert job.state == "failed"
    asked = len(harness.registry.log())
    retry_job(harness.jobs, harness.core.queue, job.id)
    job = harness.run_work_horses(job)
    assert job.state == "succeeded", job.error
    assert {request.path.split("/")[4] for request in harness.registry.log()[asked:]} == {"app-2"}
    assert tags.shown() == tags.new


def test_a_staged_image_is_served_by_its_digest_and_not_by_its_tag(harness: Harness) -> None:
    tags = ReleaseSet.of(harness, 0, fresh=2)
    job, _ = tags.staged()
    assert job.state == "queued"
    assert tags.shown() == dict.fromkeys(tags.new)
    assert not [key for key in harness.stored() if "/_manifests/tags/" in key]
    for target, digest in tags.new.items():
        name = LocalImage.parse(target)
        assert harness.core.reader.image(LocalImage(name.repository, digest=digest)).digest == digest


def test_what_is_up_to_date_is_counted_as_unchanged_and_costs_the_release_no_write_of_a_tag(harness: Harness) -> None:
    tags = ReleaseSet.of(harness, 3)
    target = next(iter(tags.old))
    assert harness.mirror(tags.source(target), target).state == "succeeded"
    written: list[str] = []

    def note(write: Any, repository: str, *rest: Any, **options: Any) -> None:
        written.append(repository)
        write(repository, *rest, **options)

    with replaced_write("set_current", note):
        job = tags.run()
    assert job.state == "succeeded", job.error
    assert job.images.unchanged == 1
    assert sorted(written) == ["team/app-1", "team/app-2"]
    assert tags.shown() == tags.new


def test_a_job_without_tags_to_move_succeeds(harness: Harness) -> None:
    image = images.image(images.layer("by digest"))
    harness.registry.put(image, "source/pinned")
    request = ImageRequest(f"{harness.registry.host}/source/pinned@{image.digest}", "team/pinned")
    job, _ = harness.core.submitter.submit([request], JobOptions(atomic=True))
    job = harness.run_tasks(job)
    assert (job.state, job.release_window) == ("succeeded", 0)
    assert harness.core.kept.is_kept("team/pinned", image.digest)


def test_a_tag_that_another_job_moved_meanwhile_keeps_all_tags_where_they_are(harness: Harness) -> None:
    tags = ReleaseSet.of(harness, 3)
    job, _ = tags.staged()
    other = tags.move_source("team/app-1:1", "other")
    later = harness.mirror(tags.source("team/app-1:1"), "team/app-1:1")
    assert later.state == "succeeded"
    job = harness.run_tasks(job)
    assert job.state == "failed"
    assert job.error is not None
    assert job.error.code == "RELEASE_SUPERSEDED"
    assert "team/app-1:1" in job.error.message
    assert later.id in job.error.message
    assert tags.shown() == {**tags.old, "team/app-1:1": other}
    retry_job(harness.jobs, harness.core.queue, job.id)
    assert error_code(harness.run_work_horses(job)) == "RELEASE_SUPERSEDED"


def test_a_tag_that_shows_the_wanted_image_by_a_later_change_is_no_obstacle(harness: Harness) -> None:
    tags = ReleaseSet.of(harness, 3)
    job, _ = tags.staged()
    later = harness.mirror(tags.source("team/app-1:1"), "team/app-1:1")
    assert later.digest == str(tags.new["team/app-1:1"])
    assert harness.run_tasks(job).state == "succeeded"
    assert tags.shown() == tags.new


def test_an_image_that_the_bucket_lost_keeps_all_tags_where_they_are(harness: Harness) -> None:
    tags = ReleaseSet.of(harness, 2)
    job, _ = tags.staged()
    image = harness.core.reader.image(LocalImage("team/app-1", digest=tags.new["team/app-1:1"]))
    harness.bucket.delete([layout.blob_key(next(iter(image.blobs)).digest)])
    job = harness.run_tasks(job)
    assert error_code(job) == "RELEASE_INCOMPLETE"
    assert tags.shown() == tags.old


def test_a_locked_tag_lets_the_release_wait_and_moves_nothing(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mirror.catalog.tag_change._LOCK_TIMEOUT", 0.3)
    tags = ReleaseSet.of(harness, 3)
    job, task = tags.staged()
    held = harness.core.leases.take(keys.tag_lease("team/app-1", "1"), 60)
    assert held is not None
    job = harness.run_tasks(job)
    assert (job.state, job.waiting_for and job.waiting_for.reason) == ("queued", "tag_busy")
    assert tags.shown() == tags.old
    assert harness.core.leases.take(keys.tag_lease("team/app-0", "1"), 60), "no lease is kept while the task waits"
    harness.core.leases.end(held)
    harness.redis.call("DEL", keys.tag_lease("team/app-0", "1"))
    harness.redis.call("ZADD", keys.TASKS_PARKED, 1, task.id)
    harness.reconcile()
    assert harness.run_tasks(job).state == "succeeded"
    assert tags.shown() == tags.new


def test_a_write_that_s3_fails_once_is_made_again(harness: Harness) -> None:
    tags = ReleaseSet.of(harness, 3)
    failed: list[str] = []

    def fail_once(write: Any, repository: str, *rest: Any, **options: Any) -> None:
        if not failed:
            failed.append(repository)
            raise StorageUnavailable("write", "it failed once")
        write(repository, *rest, **options)

    with replaced_write("set_current", fail_once):
        assert tags.run().state == "succeeded"
    assert failed
    assert tags.shown() == tags.new


def test_a_write_that_s3_refuses_moves_all_tags_back(harness: Harness) -> None:
    tags = ReleaseSet.of(harness, 2, fresh=2)
    before = [key for key in harness.stored() if "/_manifests/tags/" in key]

    def refuse(write: Any, repository: str, tag: str, digest: Digest, **options: Any) -> None:
        if repository == "team/app-3":
            raise StorageRefused("write", "there is a policy")
        write(repository, tag, digest, **options)

    with replaced_write("set_current", refuse):
        job = tags.run()
    assert (job.state, error_code(job)) == ("failed", "STORAGE_REFUSED")
    assert tags.shown() == tags.old
    assert tags.listed() == tags.old
    assert tags.journals() == []
    left = [key for key in harness.stored() if "/_manifests/tags/" in key]
    assert {key for key in left if "app-2" in key or "app-3" in key} == set()
    assert set(before) <= set(left)
    retry_job(harness.jobs, harness.core.queue, job.id)
    assert harness.run_work_horses(job).state == "succeeded"
    assert tags.shown() == tags.new


def test_a_release_that_cannot_be_undone_yet_is_undone_by_the_scheduler(harness: Harness) -> None:
    tags = ReleaseSet.of(harness, 3)
    refused = threading.Event()

    def refuse(write: Any, repository: str, *rest: Any, **options: Any) -> None:
        if repository == "team/app-2" or refused.is_set():
            refused.set()
            raise StorageRefused("write", "there is a policy")
        write(repository, *rest, **options)

    with replaced_write("set_current", refuse):
        job = tags.run()
        assert job.state == "failed"
    assert len(tags.journals()) == 1
    tags.recover()
    assert (tags.shown(), tags.journals()) == (tags.old, [])


def test_a_release_that_s3_interrupts_goes_on_in_its_next_attempt(harness: Harness) -> None:
    tags = ReleaseSet.of(harness, 3, fresh=1)

    def fail(write: Any, repository: str, *rest: Any, **options: Any) -> None:
        if repository == "team/app-2":
            raise StorageUnavailable("write", "it fails")
        write(repository, *rest, **options)

    with replaced_write("set_current", fail):
        job = tags.run()
    assert job.waiting_for is not None
    assert not tags.is_whole()
    assert len(tags.journals()) == 1
    task = tags.release_task(job)
    harness.redis.call("ZADD", keys.TASKS_PARKED, 1, task.id)
    harness.core.storage_breaker.succeeded("any")
    harness.reconcile()
    job = harness.run_tasks(job)
    assert job.state == "succeeded"
    assert job.release_window is not None
    assert (tags.shown(), tags.journals()) == (tags.new, [])


def test_a_cancel_before_the_journal_moves_nothing(harness: Harness) -> None:
    tags = ReleaseSet.of(harness, 3)
    job, task = tags.staged()
    [claimed] = harness.core.claimer.claim([(task.id, task.fence, NORMAL)], Cancellation())
    cancel_job(harness.jobs, job.id)
    claimed.cancellation.cancel("the job was canceled", resumable=False)
    harness.core.runner.run(claimed)
    assert harness.jobs.job(job.id).state == "canceled"
    assert (tags.shown(), tags.journals()) == (tags.old, [])
    retry_job(harness.jobs, harness.core.queue, job.id)
    assert harness.run_work_horses(job).state == "succeeded"
    assert tags.shown() == tags.new


def test_a_cancel_while_tags_move_comes_too_late(harness: Harness) -> None:
    tags = ReleaseSet.of(harness, 3)
    job, task = tags.staged()

    def cancel(write: Any, *args: Any, **options: Any) -> None:
        cancel_job(harness.jobs, job.id)
        claimed.cancellation.cancel("the job was canceled", resumable=False)
        write(*args, **options)

    [claimed] = harness.core.claimer.claim([(task.id, task.fence, NORMAL)], Cancellation())
    with replaced_write("set_current", cancel):
        harness.core.runner.run(claimed)
    assert harness.jobs.job(job.id).state == "succeeded"
    assert (tags.shown(), tags.journals()) == (tags.new, [])


def test_of_two_releases_with_tags_in_common_each_is_whole(harness: Harness) -> None:
    """They run at once, in every order. The later one may fail, and then it has moved nothing."""
    rng = random.Random(20261128)
    for round_ in range(4):
        tags = ReleaseSet.of(harness, 6, prefix=f"team/round-{round_}")
        names = list(tags.new)
        one, two = names[:4], names[2:]
        first, _ = tags.staged(*one)
        for name in two:
            tags.new[name] = tags.move_source(name, f"second {round_}")
        second, _ = tags.staged(*two)
        jobs = [first, second]
        rng.shuffle(jobs)
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(harness.run_tasks, jobs))
        states = {job.id: harness.jobs.job(job.id) for job in jobs}
        assert states[second.id].state == "succeeded", states[second.id].error
        shown = tags.shown()
        assert {name: shown[name] for name in two} == {name: tags.new[name] for name in two}
        if states[first.id].state == "succeeded":
            assert {shown[name] for name in one[:2]} == {tags.new[name] for name in one[:2]}
        else:
            assert error_code(states[first.id]) == "RELEASE_SUPERSEDED"
            assert {shown[name] for name in one[:2]} == {tags.old[name] for name in one[:2]}
        assert tags.journals() == []


def test_a_reader_sees_only_old_images_before_the_journal_and_only_new_ones_after_the_end(harness: Harness) -> None:
    """It reads all tags over and over. What it read while the journal existed may be a mix."""
    tags = ReleaseSet.of(harness, 18, fresh=2)
    job, _ = tags.staged()
    over, began, ended = (threading.Event() for _ in range(3))
    before: list[Shown] = []
    after: list[Shown] = []

    def read() -> None:
        while not (over.is_set() and after):
            is_after = ended.is_set()
            shown = tags.shown()
            if is_after:
                after.append(shown)
            elif not began.is_set():
                before.append(shown)
                read_once.set()

    read_once = threading.Event()
    write, delete = ReleaseJournals.write, ReleaseJournals.delete

    def write_after_event(*args: Any, **options: Any) -> None:
        began.set()
        write(*args, **options)

    def delete_before_event(*args: Any, **options: Any) -> None:
        delete(*args, **options)
        ended.set()

    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(1) as pool:
        patch.setattr(ReleaseJournals, "write", write_after_event)
        patch.setattr(ReleaseJournals, "delete", delete_before_event)
        reading = pool.submit(read)
        assert read_once.wait(60)
        job = harness.run_tasks(job)
        over.set()
        reading.result(60)
    assert job.state == "succeeded", job.error
    assert all(shown == tags.old for shown in before)
    assert all(shown == tags.new for shown in after)


def test_a_job_of_one_tag_that_runs_at_the_same_time_is_never_lost(harness: Harness) -> None:
    """It read its source later. So its image is what the tag shows in the end, and the release is whole without it."""
    for round_ in range(4):
        tags = ReleaseSet.of(harness, 3, prefix=f"team/race-{round_}")
        target = f"team/race-{round_}-1:1"
        job, _ = tags.staged()
        other = tags.move_source(target, "other")
        single = harness.submit(tags.source(target), target)
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(harness.run_tasks, [job, single][:: 1 if round_ % 2 else -1]))
        assert harness.jobs.job(single.id).state == "succeeded"
        ended = harness.jobs.job(job.id)
        assert error_code(ended) in (None, "RELEASE_SUPERSEDED")
        expected = tags.new if ended.state == "succeeded" else tags.old
        assert (tags.shown(), tags.journals()) == ({**expected, target: other}, [])
