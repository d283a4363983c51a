"""Extra slots of a work horse, for tasks of registries that have no usual one."""

from __future__ import annotations

import pytest

from mirror.queue import LANES, NORMAL
from mirror.records.job import Job
from mirror.records.job_request import ImageRequest
from mirror.records.jobs import Entry
from mirror.records.queued import TaskOrigin
from mirror.redis import keys
from tests.support.harness import Harness
from tests.support.servers.s3 import RcloneS3
from worker import overflow
from worker.overflow import MANY, OVERFLOW, OVERFLOW_OF_ONE, OverflowQueue, choose


@pytest.fixture
def s3_server(rclone_s3: RcloneS3) -> RcloneS3:
    """One is enough: the bucket plays no part here."""
    return rclone_s3


def page(*registries: str | None, lane: str = NORMAL) -> list[tuple[Entry, TaskOrigin | None]]:
    """Entries of as many jobs. One without a registry is of a task that is gone."""
    return [
        ((f"task{n}", 0, lane), TaskOrigin(f"job{n}", registry) if registry else None)
        for n, registry in enumerate(registries)
    ]


def slots(*registries: str, job: str | None = None) -> list[TaskOrigin]:
    """The origins of tasks in slots, each of a job of its own, or all of one job."""
    return [TaskOrigin(job or f"other{n}", registry) for n, registry in enumerate(registries)]


def numbers(chosen: list[Entry]) -> list[int]:
    return [int(task_id.removeprefix("task")) for task_id, *_ in chosen]


def test_tasks_of_registries_that_have_slots_are_left_in_the_queue() -> None:
    assert numbers(choose(page("a", "b", "a", "c"), slots("a"), [])) == [1, 3]


def test_where_all_tasks_are_of_one_registry_none_is_taken() -> None:
    assert choose(page(*["docker.io"] * 50), slots("docker.io"), []) == []


def test_one_registry_gets_some_of_the_slots_and_all_others_the_rest() -> None:
    chosen = choose(page(*"bbbbb", *"ccccc", *"ddddd"), slots("a"), [])
    assert numbers(chosen) == [0, 1, 5, 6]
    assert len(chosen) == OVERFLOW == 2 * OVERFLOW_OF_ONE


def test_slots_that_are_taken_count() -> None:
    assert numbers(choose(page(*"bbcc"), slots("a"), slots("b"))) == [0, 2, 3]
    assert numbers(choose(page(*"bbcc"), slots("a"), slots("b", "b"))) == [2, 3]
    assert choose(page(*"bbcc"), slots("a"), slots("d", "d", "e", "e")) == []


def test_a_task_that_is_gone_or_has_lost_a_worker_is_left() -> None:
    assert numbers(choose(page(None, "b"), slots("a"), [])) == [1]


@pytest.mark.parametrize(("of_one_job", "chosen"), [(MANY - 1, []), (MANY, [0, 1]), (MANY + 1, [0, 1])])
def test_while_one_job_has_many_slots_other_jobs_get_some_though_they_share_its_registry(
    of_one_job: int, chosen: list[int]
) -> None:
    usual = [*slots(*"a" * of_one_job, job="large"), *slots(*"a" * (8 - of_one_job))]
    assert numbers(choose(page(*"aaaa"), usual, [])) == chosen


def test_a_job_that_has_a_slot_gets_no_extra_one() -> None:
    usual, waiting = slots(*"aaaaaaaa", job="large"), page(*"aaa")
    assert numbers(choose(waiting, usual, [TaskOrigin("job0", "a")])) == [1]
    assert numbers(choose([waiting[0], waiting[0]], usual, [])) == [0]
    assert choose([(waiting[0][0], TaskOrigin("large", "a"))], usual, []) == []


@pytest.mark.parametrize("lane", [lane for lane in LANES if lane not in ("high", "normal")])
def test_the_bulk_of_another_job_and_one_of_low_priority_get_no_extra_slot(lane: str) -> None:
    assert choose(page(*"aaa", lane=lane), slots(*"aaaaaaaa", job="large"), []) == []


def jobs(harness: Harness, *registries: str) -> list[Job]:
    return [
        harness.core.submitter.submit([ImageRequest(f"{name}/team/app{n}:1")])[0] for n, name in enumerate(registries)
    ]


def entry(harness: Harness, job: Job) -> Entry:
    [task] = harness.jobs.tasks(job.id, 1)
    return task.id, task.fence, NORMAL


def others(harness: Harness, monkeypatch: pytest.MonkeyPatch, page: int = 100) -> OverflowQueue:
    monkeypatch.setattr(overflow, "PAGE", page)
    monkeypatch.setattr(overflow, "PAGE_SECONDS", 0.0)
    return OverflowQueue(harness.core.queue, harness.core.queued)


def test_what_is_taken_leaves_the_queue_and_the_rest_keeps_its_order(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow, good, more, last = jobs(harness, "slow.example", "good.example", "slow.example", "slow.example")
    assert others(harness, monkeypatch).take(slots("slow.example"), []) == [entry(harness, good)]
    assert harness.core.queue.take(10) == [entry(harness, job) for job in (slow, more, last)]


def test_an_entry_that_another_worker_has_taken_is_not_taken_twice(harness: Harness) -> None:
    first, second = (entry(harness, job) for job in jobs(harness, "a.example", "b.example"))
    assert harness.core.queue.page(0, 10) == [first, second]
    assert harness.core.queue.take(1) == [first]
    assert harness.core.queue.take_these([first, second]) == [second]
    assert harness.core.queue.page(0, 10) == []
    assert harness.core.queue.connection.keys(f"{keys.RQ_PREFIX}:job:*") == []


def test_the_whole_queue_is_read_page_by_page_again_and_again(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    looking = others(harness, monkeypatch, page=4)
    jobs(harness, *["slow.example"] * 10)
    [good] = jobs(harness, "good.example")
    found = [looking.take(slots("slow.example"), []) for _ in range(3)]
    assert found == [[], [], [entry(harness, good)]]
    [later] = jobs(harness, "good.example")
    assert [entry(harness, later)] in [looking.take(slots("slow.example"), []) for _ in range(4)]


def test_a_page_is_read_only_now_and_then(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overflow, "PAGE_SECONDS", 3600.0)
    looking = OverflowQueue(harness.core.queue, harness.core.queued)
    assert looking.take(slots("slow.example"), []) == []
    jobs(harness, "good.example")
    assert looking.take(slots("slow.example"), []) == []


def test_a_task_that_has_lost_a_worker_is_left_to_a_work_horse_of_its_own(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    [job] = jobs(harness, "good.example")
    task_id, *_ = entry(harness, job)
    harness.redis.call("HSET", keys.task(task_id), "losses", 1)
    assert others(harness, monkeypatch).take(slots("slow.example"), []) == []


def test_a_small_job_is_found_though_the_queue_is_long(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    looking = others(harness, monkeypatch, page=20)
    large = harness.core.submitter.submit([ImageRequest(f"a.example/team/app{n}:1") for n in range(100)])[0]
    usual = slots(*["a.example"] * 8, job=large.id)
    assert [looking.take(usual, []) for _ in range(3)] == [[], [], []]
    [small] = jobs(harness, "a.example")
    assert looking.take(usual, []) == [entry(harness, small)]
