"""Processes were killed, or frozen for a while. What they left is done once, and what they do late is harmless."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from mirror.errors import RedisUnavailable
from mirror.records.run import RunNote
from mirror.records.schedule import Timetable
from mirror.records.states import STEP
from mirror.redis import keys
from mirror.schedules.tick import Ticker, decide, new_run
from tests.integration.schedules.timeline import Timeline, job_of


@contextmanager
def killed_before_the_job_is_stored(timeline: Timeline, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let every submission of the block end before its last script."""

    def killed(**_: object) -> None:
        raise RedisUnavailable("the process is killed")

    with monkeypatch.context() as patched:
        patched.setattr(timeline.core.jobs, "_submit", killed)
        with pytest.raises(RedisUnavailable):
            yield


def sources_of_the_only_job(timeline: Timeline) -> list[str]:
    [job] = timeline.jobs()
    tasks = timeline.core.jobs.tasks(job.id, 10_000)
    assert len(tasks) == job.images.total
    return [str(task.spec.source).rsplit("/", 1)[-1] for task in tasks]


def released_and_pending(timeline: Timeline) -> list[str]:
    [job] = timeline.jobs()
    pending = timeline.core.redis.call("LRANGE", keys.job_pending(job.id), 0, -1)
    return [*timeline.core.redis.call("ZRANGE", keys.TASKS_QUEUED, 0, -1), *pending]


def test_a_run_whose_start_was_cut_off_keeps_the_job_it_began_with(
    timeline: Timeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = [f"before{number}:1" for number in range(STEP + 100)]
    schedule = timeline.create(job=job_of(before))
    with killed_before_the_job_is_stored(timeline, monkeypatch):
        timeline.pass_time(hours=1)
    after = job_of([f"after{number}:1" for number in range(STEP + 200)])
    timeline.core.schedules.replace(timeline.read(), replace(schedule.definition, job=after))
    timeline.tick()
    assert sources_of_the_only_job(timeline) == before
    timeline.core.jobs.cancel(timeline.jobs()[0].id)
    timeline.pass_time(hours=1)
    assert timeline.jobs()[1].images.total == STEP + 200


def test_a_start_that_was_cut_off_long_ago_is_repeated_without_duplicates(
    timeline: Timeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"image{number}:1" for number in range(2 * STEP + 100)]
    timeline.create(job=job_of(names))
    with killed_before_the_job_is_stored(timeline, monkeypatch):
        timeline.pass_time(hours=1)
    [leftover] = timeline.core.redis.call("ZRANGE", keys.JOBS_LEFTOVER, 0, -1)
    timeline.core.redis.call("ZADD", keys.JOBS_LEFTOVER, 1, leftover)
    assert timeline.core.recovery.delete_tasks(leftover)  # one step of several
    timeline.tick()
    assert timeline.jobs() == []
    while timeline.core.recovery.delete_tasks(leftover):
        pass
    timeline.tick()
    assert sources_of_the_only_job(timeline) == names
    found = released_and_pending(timeline)
    assert len(found) == len(set(found)) == len(names)


def test_a_start_that_wakes_up_after_the_job_was_deleted_leaves_no_tasks(timeline: Timeline) -> None:
    definition = timeline.create(job=job_of([f"image{number}:1" for number in range(STEP + 100)])).definition
    timeline.pass_time(hours=1)
    [run] = timeline.runs()
    timeline.core.jobs.cancel(str(run.job))
    timeline.core.jobs.delete(str(run.job))
    timeline.core.schedules.starter.start(replace(run, state="starting"), definition)
    assert list(timeline.core.redis.client.scan_iter(keys.task("*"))) == []


def test_a_scheduler_that_wakes_up_does_not_think_that_the_clock_was_set_back(timeline: Timeline) -> None:
    schedule = timeline.create()
    core = timeline.core
    timeline.pass_time(minutes=58)

    def read_and_freeze() -> datetime:
        """Return the time, and be frozen. Meanwhile a user edits the schedule, and another scheduler ticks."""
        asleep_since = timeline.now
        timeline.clock[0] += timedelta(minutes=10)
        definition = replace(schedule.definition, timetable=Timetable("5 * * * *"))
        core.schedules.replace(timeline.read(), definition)
        timeline.tick()
        return asleep_since

    Ticker(core.schedules.store, core.schedules.runs, core.schedules.starter, read_and_freeze).tick()
    timeline.tick()
    assert timeline.read().next_slot == datetime(2026, 3, 2, 14, 5, tzinfo=UTC)
    assert timeline.runs() == []


def test_a_slot_is_not_claimed_with_the_timetable_of_an_old_version(timeline: Timeline) -> None:
    schedule = timeline.create()
    twice_an_hour = replace(schedule.definition, timetable=Timetable("*/30 * * * *"))
    timeline.clock[0] = datetime(2026, 3, 2, 12, 30, tzinfo=UTC)
    timeline.core.schedules.replace(timeline.read(), twice_an_hour)
    timeline.clock[0] = datetime(2026, 3, 2, 13, 0, tzinfo=UTC)
    store = timeline.core.schedules.store
    assert store.note_tick(store.last_tick(), timeline.now)
    decision = decide(schedule, timeline.now)
    assert decision is not None
    run = new_run(schedule, timeline.now, decision.reason, decision.place, slot=decision.slot)
    assert not timeline.core.schedules.runs.claim(schedule, run, decision.place, decision.following)
    timeline.tick()
    assert timeline.read().next_slot == datetime(2026, 3, 2, 13, 30, tzinfo=UTC)


def test_an_edit_that_read_the_schedule_before_a_tick_leaves_its_next_slot(timeline: Timeline) -> None:
    before = timeline.create()
    timeline.pass_time(hours=1)
    timeline.core.schedules.replace(before, replace(before.definition, labels={"team": "base"}))
    assert timeline.read().next_slot == datetime(2026, 3, 2, 14, 0, tzinfo=UTC)


def test_a_run_that_another_release_has_started_is_not_ended_as_refused(timeline: Timeline) -> None:
    schedule = timeline.create()
    timeline.pass_time(hours=1)
    [run] = timeline.runs()
    refused = replace(schedule.definition, job={"source": "redis:7", "target": "quay.io/redis:7"})
    timeline.core.schedules.starter.start(replace(run, state="starting"), refused)
    assert [run.state for run in timeline.runs()] == ["running"]
    assert timeline.read().open_run == run.id


def test_a_run_that_has_ended_gets_no_note_and_no_other_state(timeline: Timeline) -> None:
    timeline.create()
    timeline.pass_time(hours=1)
    [running] = timeline.runs()
    timeline.finish()
    store = timeline.core.schedules.runs
    assert not store.note(running, RunNote("DEADLINE_EXCEEDED", "late"))
    assert not store.note_state(running, "following")
    assert [(run.state, run.note) for run in timeline.runs()] == [("succeeded", None)]


def test_a_deleted_run_does_not_come_back(timeline: Timeline) -> None:
    schedule = timeline.create()
    timeline.pass_time(hours=1)
    [running] = timeline.runs()
    timeline.core.schedules.delete(schedule)
    timeline.core.schedules.delete(schedule)  # sent twice
    timeline.core.schedules.starter.advance(running.id, "late")
    assert not timeline.core.schedules.runs.note_state(running, "following")
    assert timeline.core.redis.call("EXISTS", keys.run(running.id)) == 0


def test_a_creation_that_is_sent_twice_succeeds_although_it_was_edited_in_between(timeline: Timeline) -> None:
    schedule = timeline.create()
    edited = replace(schedule.definition, labels={"team": "base"})
    timeline.core.schedules.replace(schedule, edited)
    timeline.core.schedules.store.put(schedule)
    assert timeline.read().definition == edited


def test_every_open_run_is_seen_however_many_need_something(timeline: Timeline) -> None:
    timeline.create()
    timeline.pass_time(hours=1)
    timeline.core.jobs.cancel(timeline.jobs()[0].id)
    waiting = [f"run_{number:026}" for number in range(150)]
    timeline.core.redis.calls([["HSET", keys.run(run), "state", "following"] for run in waiting])
    timeline.core.redis.calls([["ZADD", keys.RUNS_OPEN, 0, run] for run in waiting])
    timeline.tick()
    assert [run.state for run in timeline.runs()] == ["canceled"]


def test_schedules_that_cannot_be_timed_do_not_keep_others_from_running(timeline: Timeline) -> None:
    for number in range(12):
        timeline.create(name=f"broken{number}")
        timeline.break_definition(f"broken{number}", time_zone="Mars/Base")
    timeline.create()
    timeline.pass_time(hours=1)
    assert [run.state for run in timeline.runs()] == ["running"]
