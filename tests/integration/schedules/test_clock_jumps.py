"""The wall clock is set ahead and back. Every schedule goes on, and no slot runs twice."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from mirror.records.schedule import Timetable
from mirror.redis import keys
from mirror.schedules.tick import Ticker, decide, new_run
from tests.integration.schedules.timeline import Timeline


def next_slot(timeline: Timeline) -> timedelta:
    found = timeline.read().next_slot
    assert found is not None
    return found - timeline.now


def test_a_schedule_that_ran_often_while_the_clock_was_ahead_goes_on(timeline: Timeline) -> None:
    timeline.create()
    timeline.pass_time(hours=1)
    timeline.pass_time(days=365)
    for _ in range(120):  # more than a schedule remembers of runs
        timeline.pass_time(hours=1)
    timeline.finish()
    timeline.pass_time(days=-370)
    for _ in range(3):
        timeline.pass_time(hours=1)
        [job] = [job for job in timeline.jobs() if job.state == "queued"]
        assert job.run is not None
        assert job.run.slot == timeline.now
        timeline.finish()
        assert timeline.read().open_run is None
        assert timeline.read().health.last_run == job.run.run


def test_slots_that_ran_before_the_clock_was_ahead_do_not_run_again(timeline: Timeline) -> None:
    timeline.create()
    for _ in range(5):
        timeline.pass_time(hours=1)
    timeline.pass_time(days=365)
    for _ in range(100):
        timeline.pass_time(hours=1)
    timeline.finish()
    before = len(timeline.jobs())
    timeline.pass_time(days=-365, hours=-103)  # to before the third slot
    for _ in range(3):
        timeline.pass_time(hours=1)
    assert len(timeline.jobs()) == before
    timeline.pass_time(hours=1)
    assert len(timeline.jobs()) == before + 1


def test_a_schedule_with_many_pauses_remembers_all_claimed_slots(timeline: Timeline) -> None:
    schedule = timeline.create()
    for _ in range(70):
        timeline.pass_time(hours=3)
    slots = keys.schedule_slots(schedule.id)
    assert timeline.core.redis.call("ZCARD", slots) == 64
    timeline.pass_time(hours=-31)
    for _ in range(31):
        timeline.pass_time(hours=1)
    found = [run.slot for run in timeline.runs()]
    assert len(found) == len(set(found)) == 70 + 20  # every third slot of the last 30 was claimed before


@pytest.mark.parametrize("times", [{"cron": "0 * * * *"}, {"cron": None, "every": "1h"}], ids=["cron", "every"])
def test_a_schedule_that_was_created_while_the_clock_was_ahead_goes_on(
    timeline: Timeline, times: dict[str, Any]
) -> None:
    timeline.pass_time(days=365)
    timeline.create(**times)
    timeline.pass_time(days=-365)
    assert timedelta(0) < next_slot(timeline) <= timedelta(hours=1)
    for _ in range(3):
        timeline.pass_time(hours=1)
        timeline.finish()
    assert [run.state for run in timeline.runs()] == ["succeeded"] * 3


def test_a_schedule_that_was_edited_while_the_clock_was_ahead_and_no_scheduler_worked_goes_on(
    timeline: Timeline,
) -> None:
    schedule = timeline.create()
    timeline.pass_time(minutes=1)
    timeline.clock[0] += timedelta(days=365)
    changed = replace(schedule.definition, timetable=Timetable("30 * * * *"))
    timeline.core.schedules.replace(timeline.read(), changed)
    timeline.pass_time(days=-365)
    assert timedelta(0) < next_slot(timeline) <= timedelta(hours=1)


def test_a_scheduler_that_read_the_time_before_the_clock_was_set_back_starts_nothing(timeline: Timeline) -> None:
    timeline.create(deadline="30m")
    timeline.pass_time(hours=1)
    core = timeline.core
    timeline.pass_time(days=365)
    ahead = timeline.now
    timeline.finish()
    timeline.pass_time(days=-365)
    timeline.pass_time(hours=1)
    before = timeline.runs()
    assert [run.slot.hour for run in before if run.slot and run.state == "running"] == [14]

    def read_and_freeze() -> datetime:
        """Return a time ahead. Before this process goes on, the clock is set back, and another scheduler ticks."""
        timeline.clock[0] += timedelta(minutes=1)
        timeline.tick()
        return ahead

    Ticker(core.schedules.store, core.schedules.runs, core.schedules.starter, read_and_freeze).tick()
    assert timeline.runs() == before
    schedule = timeline.read()
    decision = decide(schedule, ahead)
    assert decision is not None
    run = new_run(schedule, ahead, decision.reason, decision.place, slot=decision.slot)
    assert not core.schedules.runs.claim(schedule, run, decision.place, decision.following)
    assert core.schedules.runs.open_runs(ahead) == []
    assert timeline.read().next_slot == datetime(2026, 3, 2, 15, 0, tzinfo=UTC)


def test_a_scheduler_that_is_frozen_while_the_clock_is_set_back_loses_no_slot(timeline: Timeline) -> None:
    timeline.create()
    core = timeline.core
    timeline.pass_time(days=365)
    timeline.finish()

    def freeze_and_read() -> datetime:
        """Be frozen after the last tick was read. Meanwhile another scheduler ticks, and then a slot is due."""
        timeline.pass_time(days=-365)
        timeline.clock[0] += timedelta(hours=1)
        return timeline.now

    Ticker(core.schedules.store, core.schedules.runs, core.schedules.starter, freeze_and_read).tick()
    timeline.tick()
    assert [run.slot for run in timeline.runs() if run.state == "running"] == [datetime(2026, 3, 2, 13, 0, tzinfo=UTC)]
