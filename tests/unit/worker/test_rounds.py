"""Tags that are there already: looked at in rounds, settled together, and mirrored where that is needed after all."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from mirror.coordination import keys
from mirror.coordination.lease import Leases
from mirror.copying.interruption import Interruption
from mirror.jobs.performing import HANDOVER
from mirror.jobs.steering import Steering
from mirror.records.job import Job
from mirror.storage import layout
from mirror.storage.provenance import ProvenanceStore
from tests import images
from tests.e2e.processes import eventually
from tests.fakes.registry import Reply, Request
from tests.plant import Plant
from tests.unit.worker.test_shift import held_back, lost, shift, taken


def content(number: int, version: str = "old") -> images.TestImage:
    return images.image(images.layer(f"{version} {number}"))


def source(number: int) -> str:
    return f"team/app:v{number}"


def mirrored(plant: Plant, count: int) -> None:
    """Hold *count* tags of one repository, each with an image of its own."""
    for number in range(count):
        plant.registry.put(content(number), "team/app", f"v{number}")
    assert worked(plant, ordered(plant, count)).state == "succeeded"


def ordered(plant: Plant, count: int) -> Job:
    return plant.submit_all(*((source(number), f"prod/app:v{number}") for number in range(count)))


def worked(plant: Plant, job: Job) -> Job:
    """The job after horses have worked as long as anything is queued."""
    while entries := plant.queue.take(1):
        shift(plant).work(*entries[0])
    return plant.store.job(job.id)


def changed(plant: Plant, numbers: Sequence[int]) -> None:
    for number in numbers:
        plant.registry.put(content(number, "new"), "team/app", f"v{number}")


def asked(plant: Plant, since: int) -> list[str]:
    return [request.method for request in plant.registry.log()[since:]]


def shown(plant: Plant, number: int) -> str:
    return str(plant.links.current("prod/app", f"v{number}"))


def looks_held_up(plant: Plant, path: str = "/manifests/", *, times: int = 1_000) -> threading.Event:
    """Let the source not answer the next HEADs of a path before the event comes."""
    gate, left = threading.Event(), iter(range(times))

    def hold(request: Request, _: Reply) -> None:
        if request.method == "HEAD" and path in request.path and next(left, None) is not None:
            assert gate.wait(60)

    plant.registry.script(hold)
    return gate


def test_tags_that_have_not_changed_cost_one_request_each_and_write_nothing(plant: Plant) -> None:
    mirrored(plant, 24)
    stored, before = plant.stored(), len(plant.registry.log())
    job = worked(plant, ordered(plant, 24))
    assert (job.state, job.images.succeeded, job.images.unchanged) == ("succeeded", 24, 24)
    assert asked(plant, before) == ["HEAD"] * 24
    assert plant.stored() == stored
    tasks = plant.store.tasks(job.id, 24)
    assert [task.digest for task in tasks] == [str(content(number).digest) for number in range(24)]


def test_the_bucket_is_not_asked_where_unchanged_tags_came_from(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    mirrored(plant, 3)
    asked_for: list[object] = []
    monkeypatch.setattr(ProvenanceStore, "has_served", lambda *which, **_: asked_for.append(which))
    assert worked(plant, ordered(plant, 3)).images.unchanged == 3
    assert plant.mirror(source(1), "prod/app:v1").images.unchanged == 1
    assert asked_for == []


def test_another_source_of_the_same_images_is_remembered_when_the_bucket_has_told_of_it(
    plant: Plant, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when a registry was given a new name: its first job reads each manifest, later ones ask as usual."""
    mirrored(plant, 6)
    for number in range(6):
        plant.registry.put(content(number), "moved/app", f"v{number}")

    def again() -> list[str]:
        before = len(plant.registry.log())
        job = plant.submit_all(*((f"moved/app:v{number}", f"prod/app:v{number}") for number in range(6)))
        assert worked(plant, job).images.unchanged == 6
        return asked(plant, before)

    assert sorted(again()) == ["GET"] * 6 + ["HEAD"] * 6
    monkeypatch.setattr(ProvenanceStore, "has_served", lambda *_, **__: pytest.fail("the bucket was asked"))
    assert again() == ["HEAD"] * 6
    entry = plant.index.entry("prod/app", "v0")
    assert entry
    assert (entry.source, entry.also_from) == (
        f"{plant.registry.host}/team/app:v0",
        (f"{plant.registry.host}/moved/app",),
    )


def test_those_among_them_that_have_changed_are_mirrored(plant: Plant) -> None:
    mirrored(plant, 24)
    new = range(5, 24, 3)
    changed(plant, new)
    job = worked(plant, ordered(plant, 24))
    assert (job.state, job.images.succeeded, job.images.unchanged) == ("succeeded", 24, 24 - len(new))
    for number in range(24):
        assert shown(plant, number) == str(content(number, "new" if number in new else "old").digest)
    assert {task.attempt for task in plant.store.tasks(job.id, 24)} == {1}


def test_what_is_found_to_be_mirrored_beyond_a_horses_share_is_left_to_others(plant: Plant) -> None:
    mirrored(plant, 12)
    changed(plant, range(12))
    gate, before = held_back(plant, "/blobs/"), len(plant.registry.log())
    job = ordered(plant, 12)

    def nine_were_given_back() -> bool:
        """Nothing is mirrored before all twelve were taken from the queue and looked at."""
        is_mirroring = any("/blobs/" in request.path for request in plant.registry.log()[before:])
        return is_mirroring and plant.queue.rq.count == 9

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(shift(plant, at_once=3).work, *taken(plant))
        eventually(nine_were_given_back, what="nine of twelve were given back")
        assert plant.store.job(job.id).images.running == 3
        second = pool.submit(shift(plant, at_once=9).work, *taken(plant))
        eventually(lambda: plant.store.job(job.id).images.running == 12, what="another horse has the rest")
        gate.set()
        first.result(60)
        second.result(60)
    job = plant.store.job(job.id)
    assert (job.state, job.images.succeeded, job.images.unchanged, job.attempt) == ("succeeded", 12, 0, 1)


def test_a_tag_that_the_bucket_has_lost_is_mirrored_again_though_the_index_lists_it(plant: Plant) -> None:
    mirrored(plant, 14)
    stored = plant.stored()
    plant.bucket.delete([layout.tag_current_key("prod/app", "v7")])
    job = worked(plant, ordered(plant, 14))
    assert (job.state, job.images.unchanged) == ("succeeded", 13)
    assert plant.stored() == stored


def test_a_tag_whose_link_is_damaged_is_mirrored_again_and_keeps_no_other_from_its_way(plant: Plant) -> None:
    mirrored(plant, 3)
    plant.bucket.put(layout.tag_current_key("prod/app", "v1"), b"no digest at all")
    job = worked(plant, ordered(plant, 3))
    assert (job.images.unchanged, job.images.failed) == (2, 1)
    assert job.error is not None
    assert job.error.code == "STORAGE_DAMAGED"


def test_a_source_that_does_not_answer_keeps_no_other_tag_waiting(plant: Plant) -> None:
    mirrored(plant, 16)
    gate, job = looks_held_up(plant, "/manifests/v3"), ordered(plant, 16)
    with ThreadPoolExecutor(1) as pool:
        working = pool.submit(shift(plant).work, *taken(plant))
        eventually(lambda: plant.store.job(job.id).images.unchanged == 15, what="the others have ended")
        gate.set()
        working.result(60)
    assert plant.store.job(job.id).images.unchanged == 16


def test_a_source_that_has_gone_fails_its_own_task(plant: Plant) -> None:
    mirrored(plant, 5)
    plant.registry.script(lambda q, _: Reply(404) if q.path.endswith("/manifests/v2") else None)
    job = worked(plant, ordered(plant, 5))
    assert (job.state, job.images.unchanged, job.images.failed) == ("partial", 4, 1)
    assert job.error is not None
    assert job.error.code == "MANIFEST_UNKNOWN"


def test_a_source_that_knows_no_head_is_asked_for_its_manifest(plant: Plant) -> None:
    mirrored(plant, 3)
    plant.registry.script(lambda q, _: Reply(405) if q.method == "HEAD" else None)
    job = worked(plant, ordered(plant, 3))
    assert (job.state, job.images.succeeded) == ("succeeded", 3)


def test_an_interrupted_horse_hands_over_what_it_is_looking_at(plant: Plant) -> None:
    mirrored(plant, 14)
    gate, interruption, job = looks_held_up(plant), Interruption(), ordered(plant, 14)
    before = len(plant.registry.log())
    with ThreadPoolExecutor(1) as pool:
        working = pool.submit(shift(plant, interruption).work, *taken(plant))
        eventually(lambda: len(asked(plant, before)) >= 8, what="they are looked at")
        interruption.interrupt(HANDOVER)
        gate.set()
        working.result(60)
    done = worked(plant, job)
    assert (done.state, done.images.succeeded, done.images.unchanged, done.attempt) == ("succeeded", 14, 14, 1)


def test_a_job_that_is_canceled_while_it_is_looked_at_ends_without_its_source(plant: Plant) -> None:
    mirrored(plant, 4)
    gate, job = looks_held_up(plant), ordered(plant, 4)
    before = len(plant.registry.log())
    with ThreadPoolExecutor(1) as pool:
        working = pool.submit(shift(plant).work, *taken(plant))
        eventually(lambda: len(asked(plant, before)) == 4, what="they are looked at")
        Steering(plant.store, plant.queue).cancel(job.id)
        eventually(lambda: plant.store.job(job.id).state == "canceled", what="the job has ended")
        gate.set()
        working.result(60)
    assert plant.store.job(job.id).images.canceled == 4


def test_a_tag_that_another_job_is_changing_is_waited_for(plant: Plant) -> None:
    mirrored(plant, 3)
    assert Leases(plant.redis).take(keys.tag_lease("prod/app", "v1"), 1.0)
    job = worked(plant, ordered(plant, 3))
    assert (job.state, job.images.unchanged) == ("succeeded", 3)


def test_two_tasks_for_one_tag_in_one_round_both_end(plant: Plant) -> None:
    mirrored(plant, 1)
    jobs = [ordered(plant, 1), ordered(plant, 1)]
    shift(plant).work(*taken(plant))
    assert [plant.store.job(job.id).images.unchanged for job in jobs] == [1, 1]


def test_a_job_that_asked_its_source_before_a_later_one_is_told_that_it_was_superseded(plant: Plant) -> None:
    """The earlier look is held up until the later job has moved the tag."""
    mirrored(plant, 1)
    before, gate = len(plant.registry.log()), looks_held_up(plant, times=1)
    earlier = ordered(plant, 1)
    with ThreadPoolExecutor(1) as pool:
        working = pool.submit(shift(plant, tasks=0).work, *taken(plant))
        eventually(lambda: asked(plant, before), what="the earlier job has asked")
        changed(plant, [0])
        later = plant.perform(ordered(plant, 1))
        gate.set()
        working.result(60)
    [task] = plant.store.tasks(earlier.id, 1)
    assert (task.state, task.digest, task.superseded_by) == ("succeeded", str(content(0).digest), later.id)
    assert shown(plant, 0) == str(content(0, "new").digest)


def test_s3_that_is_away_leaves_each_task_to_wait_for_it(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    mirrored(plant, 3)
    endpoint = plant.bucket
    job = ordered(plant, 3)
    monkeypatch.setattr(endpoint, "name", "a-bucket-that-is-not-there")
    worked(plant, job)
    assert plant.store.job(job.id).images.unchanged == 0
    assert plant.store.job(job.id).state in ("failed", "queued")


def test_a_task_that_lost_its_worker_is_not_looked_at_beside_others(plant: Plant) -> None:
    mirrored(plant, 6)
    jobs = [plant.submit(source(number), f"prod/app:v{number}") for number in range(6)]
    lost(plant, jobs[3])
    shift(plant).work(*taken(plant))
    assert [plant.store.job(job.id).state for job in jobs] == ["succeeded"] * 3 + ["queued"] * 3
    assert worked(plant, jobs[3]).images.unchanged == 1


def test_new_images_among_them_do_not_fill_the_horse(plant: Plant) -> None:
    """What is new is met only when it is claimed: beyond the horse's share it is given back."""
    mirrored(plant, 4)
    for number in range(4, 16):
        plant.registry.put(content(number), "team/app", f"v{number}")
    gate, job = held_back(plant, "/blobs/"), ordered(plant, 16)
    with ThreadPoolExecutor(1) as pool:
        working = pool.submit(shift(plant, at_once=2).work, *taken(plant))
        eventually(
            lambda: (plant.store.job(job.id).images.unchanged, plant.store.job(job.id).images.running) == (4, 2),
            what="what was there has ended, and two are mirrored",
        )
        gate.set()
        working.result(60)
    done = plant.store.job(job.id)
    assert (done.state, done.images.succeeded, done.images.unchanged, done.attempt) == ("succeeded", 16, 4, 1)
