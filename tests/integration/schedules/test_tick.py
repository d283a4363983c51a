from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from mirror.errors import RunUnfinished
from mirror.records.schedule import Timetable
from mirror.redis import keys
from tests.integration.schedules.timeline import Timeline, job_of


def slots(timeline: Timeline) -> list[str]:
    return [f"{run.slot:%H:%M} {run.state}" for run in timeline.runs() if run.slot]


def test_a_schedule_runs_at_its_times(timeline: Timeline) -> None:
    schedule = timeline.create()
    assert schedule.next_slot == datetime(2026, 3, 2, 13, 0, tzinfo=UTC)
    timeline.pass_time(minutes=59)
    assert timeline.runs() == []
    timeline.pass_time(minutes=1)
    [job] = timeline.jobs()
    [run] = timeline.runs()
    assert (run.state, run.reason, run.job) == ("running", "slot", job.id)
    assert job.run is not None
    assert (job.run.run, job.run.schedule, job.run.slot) == (run.id, schedule.id, run.slot)
    timeline.finish()
    health = timeline.read().health
    assert (timeline.runs()[0].state, health.last_state, health.consecutive_failures) == ("succeeded", "succeeded", 0)
    assert timeline.read().open_run is None


def test_one_tick_per_slot_and_no_more(timeline: Timeline) -> None:
    timeline.create()
    for _ in range(180):
        timeline.pass_time(minutes=1)
        timeline.finish()
    assert slots(timeline) == ["13:00 succeeded", "14:00 succeeded", "15:00 succeeded"]


def test_a_failed_run_starts_no_other(timeline: Timeline) -> None:
    timeline.create()
    timeline.pass_time(hours=1)
    timeline.fail()
    timeline.pass_time(minutes=30)
    assert slots(timeline) == ["13:00 failed"]
    timeline.pass_time(minutes=30)
    timeline.fail()
    assert timeline.read().health.consecutive_failures == 2


def test_a_missed_slot_is_caught_up_once(timeline: Timeline) -> None:
    timeline.create()
    timeline.pass_time(hours=5, minutes=30)
    timeline.finish()
    timeline.tick()
    [run] = timeline.runs()
    assert (run.slot, run.reason, run.missed) == (datetime(2026, 3, 2, 17, 0, tzinfo=UTC), "catch_up", 4)


def test_without_catch_up_a_late_slot_is_left_out(timeline: Timeline) -> None:
    timeline.create(catch_up="none")
    timeline.pass_time(hours=5, minutes=30)
    [run] = timeline.runs()
    assert (run.state, run.note and run.note.code) == ("skipped", "MISSED")
    timeline.pass_time(minutes=30)
    assert slots(timeline) == ["17:00 skipped", "18:00 running"]


def test_without_catch_up_a_slot_of_the_last_minutes_runs(timeline: Timeline) -> None:
    timeline.create(catch_up="none")
    timeline.pass_time(hours=1, minutes=4)
    assert slots(timeline) == ["13:00 running"]


def test_an_overlapping_run_is_skipped(timeline: Timeline) -> None:
    timeline.create()
    timeline.pass_time(hours=1)
    timeline.pass_time(hours=1)
    assert slots(timeline) == ["13:00 running", "14:00 skipped"]
    timeline.finish()
    timeline.pass_time(hours=1)
    assert slots(timeline) == ["13:00 succeeded", "14:00 skipped", "15:00 running"]


def test_an_overlapping_run_is_queued(timeline: Timeline) -> None:
    timeline.create(overlap="queue")
    for _ in range(3):
        timeline.pass_time(hours=1)
    assert slots(timeline) == ["13:00 running", "14:00 queued", "15:00 skipped"]
    timeline.finish()
    timeline.tick()
    assert slots(timeline) == ["13:00 succeeded", "14:00 running", "15:00 skipped"]


def test_a_running_job_is_canceled_for_the_next_run(timeline: Timeline) -> None:
    timeline.create(overlap="cancel_running")
    timeline.pass_time(hours=1)
    timeline.pass_time(hours=1)
    for _ in range(3):
        timeline.tick()
    assert slots(timeline) == ["13:00 canceled", "14:00 running"]
    first, second = timeline.jobs()
    assert (first.state, second.state) == ("canceled", "queued")
    assert timeline.read().health.consecutive_failures == 0


def test_a_run_over_its_deadline_is_canceled_and_counts_as_failed(timeline: Timeline) -> None:
    timeline.create(deadline="10m")
    timeline.pass_time(hours=1)
    timeline.pass_time(minutes=9)
    assert slots(timeline) == ["13:00 running"]
    timeline.pass_time(minutes=1)
    timeline.tick()
    [run] = timeline.runs()
    assert (run.state, run.note and run.note.code) == ("canceled", "DEADLINE_EXCEEDED")
    assert timeline.read().health.consecutive_failures == 1


def test_a_deleted_job_does_not_block_its_schedule(timeline: Timeline) -> None:
    timeline.create()
    timeline.pass_time(hours=1)
    [job] = timeline.jobs()
    timeline.core.jobs.cancel(job.id)
    timeline.core.jobs.delete(job.id)
    timeline.pass_time(hours=1)
    timeline.tick()
    assert slots(timeline) == ["13:00 canceled", "14:00 running"]


def test_schedules_that_are_due_at_once_have_jobs_of_their_own(timeline: Timeline) -> None:
    for name in ("one", "two", "three"):
        timeline.create(name=name, job=job_of([f"{name}{number}:1" for number in range(5)]))
    timeline.pass_time(hours=1)
    tasks = {job.id: timeline.core.jobs.tasks(job.id, 100) for job in timeline.jobs()}
    assert all(task.job == job_id for job_id, found in tasks.items() for task in found)
    assert len({str(task.spec.source) for found in tasks.values() for task in found}) == 15


def test_a_retried_job_of_a_run_that_has_ended_does_not_open_it_again(timeline: Timeline) -> None:
    timeline.create()
    timeline.pass_time(hours=1)
    timeline.fail()
    timeline.core.jobs.retry(timeline.jobs()[0].id)
    timeline.tick()
    assert slots(timeline) == ["13:00 failed"]
    timeline.pass_time(hours=1)
    assert slots(timeline) == ["13:00 failed", "14:00 running"]


def test_a_job_that_is_retried_before_its_end_is_noticed_goes_on_as_the_same_run(timeline: Timeline) -> None:
    timeline.create()
    timeline.pass_time(hours=1)
    [job] = timeline.jobs()
    timeline.core.jobs.cancel(job.id)
    timeline.core.jobs.retry(job.id)
    timeline.pass_time(hours=1)
    assert slots(timeline) == ["13:00 running", "14:00 skipped"]


def test_an_edited_schedule_goes_on(timeline: Timeline) -> None:
    schedule = timeline.create()
    timeline.pass_time(hours=1)
    definition = replace(schedule.definition, timetable=Timetable("15 * * * *"))
    edited = timeline.core.schedules.replace(timeline.read(), definition)
    assert (edited.id, edited.version) == (schedule.id, 2)
    assert edited.next_slot == datetime(2026, 3, 2, 13, 15, tzinfo=UTC)
    timeline.finish()
    timeline.pass_time(minutes=15)
    assert slots(timeline) == ["13:00 succeeded", "13:15 running"]


def test_a_clock_that_jumps_a_year_ahead_and_back_runs_nothing_twice(timeline: Timeline) -> None:
    timeline.create()
    timeline.pass_time(hours=1)
    timeline.finish()
    timeline.pass_time(days=365)
    timeline.finish()
    timeline.pass_time(days=-365)
    for _ in range(3):
        timeline.pass_time(hours=1)
        timeline.finish()
    found = sorted(run.slot for run in timeline.runs() if run.slot)
    hours = [datetime(2026, 3, 2, hour, 0, tzinfo=UTC) for hour in (13, 14, 15, 16)]
    assert found == [*hours, datetime(2027, 3, 2, 13, 0, tzinfo=UTC)]


def test_a_clock_that_jumps_a_year_back_and_ahead_runs_nothing_twice(timeline: Timeline) -> None:
    timeline.create()
    for _ in range(3):
        timeline.pass_time(hours=1)
        timeline.finish()
    timeline.pass_time(days=-365)
    timeline.pass_time(hours=5)
    timeline.pass_time(days=365)
    timeline.finish()
    found = [run.slot for run in timeline.runs()]
    assert len(found) == len(set(found))
    assert found[-1] == datetime(2026, 3, 2, 20, 0, tzinfo=UTC)


def test_a_run_now_is_refused_while_the_last_one_goes_on(timeline: Timeline) -> None:
    timeline.create()
    run = timeline.core.schedules.run_now("hourly")
    assert (run.state, run.reason) == ("running", "manual")
    with pytest.raises(RunUnfinished):
        timeline.core.schedules.run_now("hourly")
    timeline.finish()
    assert timeline.core.schedules.run_now("hourly").state == "running"


def test_jitter_delays_a_run_by_a_part_of_itself(timeline: Timeline) -> None:
    schedule = timeline.create(jitter="30m")
    assert schedule.next_slot is not None
    assert schedule.next_run_at is not None
    assert timedelta(0) <= schedule.next_run_at - schedule.next_slot < timedelta(minutes=30)
    timeline.clock[0] = schedule.next_run_at - timedelta(seconds=1)
    timeline.tick()
    assert timeline.runs() == []
    timeline.pass_time(seconds=1)
    assert slots(timeline) == ["13:00 running"]


def test_a_new_job_is_run_at_once_if_that_is_asked_for(timeline: Timeline) -> None:
    schedule = timeline.create(run_on_change=True)
    assert [run.reason for run in timeline.runs()] == ["changed"]
    changed = replace(schedule.definition, job={"source": "redis:8"})
    timeline.core.schedules.replace(timeline.read(), changed)
    assert [run.state for run in timeline.runs()] == ["running", "queued"]
    timeline.finish()
    timeline.finish()
    assert [str(job.spec and job.spec.source) for job in timeline.jobs()] == [
        "docker.io/library/redis:7",
        "docker.io/library/redis:8",
    ]


def test_a_job_that_is_refused_fails_its_run(timeline: Timeline) -> None:
    timeline.create()
    timeline.break_definition("hourly", job={"source": "redis:7", "target": "quay.io/redis:7"})
    timeline.pass_time(hours=1)
    [run] = timeline.runs()
    assert (run.state, run.note and run.note.code) == ("failed", "TARGET_RESERVED")
    assert timeline.jobs() == []
    assert timeline.read().health.consecutive_failures == 1


def test_a_schedule_that_cannot_be_read_does_not_stop_the_others(timeline: Timeline) -> None:
    broken = timeline.create(name="broken")
    timeline.create()
    timeline.core.redis.call("HSET", keys.schedule(broken.id), "definition", '{"of": "a later release"}')
    timeline.pass_time(hours=1)
    assert slots(timeline) == ["13:00 running"]
