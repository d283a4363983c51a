"""Three schedulers are killed, frozen and woken up. Each slot has one run, and none is lost but what ``catch_up`` says.

``SCHEDULE_SLOTS`` sets the number of slots: few by default, five hundred for `make chaos`. ``SCHEDULE_SEED`` repeats
the times, the ends of the jobs and the moments of the kills of another run.
"""

from __future__ import annotations

import os
import random
import secrets
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import pytest

from mirror.queue import NORMAL
from mirror.records.claims import Outcome
from mirror.records.job import Job
from mirror.records.run import Run
from mirror.records.schedule_schema import read_definition
from mirror.redis import keys
from mirror.wiring import Core
from tests.chaos.schedule_model import ANY_NOTE, ModelOfSchedule, has_stepped_back
from tests.chaos.scheduler_fleet import CLOCK, Fleet, core_of
from tests.e2e.processes import eventually
from tests.integration.records.submitted import LOST
from tests.support.servers import ValkeyServer

SLOTS: Final = int(os.environ.get("SCHEDULE_SLOTS", "48"))
SEED: Final = os.environ.get("SCHEDULE_SEED") or secrets.token_hex(4)
_START: Final = datetime(2026, 3, 28, 21, 0, tzinfo=UTC)
"""Clocks change in Paris in the first night, and on Lord Howe a week later."""
_BATCH: Final = 200
_HARVEST: Final = 15
"""Steps after which the runs are read, before a schedule forgets its oldest ones."""


def images(count: int) -> dict[str, Any]:
    return {"images": [{"source": f"image{number}:1"} for number in range(count)]}


SCHEDULES: Final[tuple[Mapping[str, Any], ...]] = (
    {"name": "paris", "cron": "15,45 1-3 * * *", "time_zone": "Europe/Paris"},
    {"name": "lord-howe", "cron": "*/20 * * * *", "time_zone": "Australia/Lord_Howe", "catch_up": "none"},
    {"name": "new-york", "cron": "30 */2 * * *", "time_zone": "America/New_York", "overlap": "queue"},
    {"name": "jitter", "every": "37m", "jitter": "5m"},
    {"name": "kolkata", "cron": "0 * * * *", "time_zone": "Asia/Kolkata", "overlap": "cancel_running"},
    {"name": "queue", "every": "1h", "overlap": "queue", "catch_up": "none", "jitter": "59m"},
    {"name": "large", "cron": "10 */6 * * *", "job": images(1100)},
    {"name": "large-replaced", "cron": "40 */8 * * *", "overlap": "cancel_running", "job": images(600)},
    {"name": "deadline", "cron": "5 * * * *", "overlap": "queue", "deadline": "45m"},
)


class Simulation:
    """A fleet, its schedules, and what they must do. It moves the clock on when the fleet has nothing more to do."""

    def __init__(self, core: Core, fleet: Fleet, rng: random.Random) -> None:
        self.core = core
        self.fleet = fleet
        self.rng = rng
        self.now = _START
        self.step = 0
        self.runs: dict[str, Run] = {}
        self.deleted: set[str] = set()
        store = core.schedules.store
        created = [core.schedules.create(read_definition({"job": {"source": "redis:7"}, **each})) for each in SCHEDULES]
        self.models = [
            ModelOfSchedule(store.schedule(each.id), is_loose=each.definition.deadline is not None) for each in created
        ]

    @property
    def slots(self) -> int:
        return sum(len(model.expected) for model in self.models)

    def pass_slots(self, count: int) -> None:
        """Go on until so many more slots were due."""
        until = self.slots + count
        while self.slots < until:
            self.go_to(self._next_time())

    def go_to(self, now: datetime) -> None:
        """Set the clock, wait until the fleet is done, and let workers end some jobs."""
        if has_stepped_back(self.now, now):
            for model in self.models:
                model.rearm(now)
        self.now = now
        self.step += 1
        for model in self.models:
            model.tick(now)
        self.core.redis.call("SET", CLOCK, round(now.timestamp() * 1000))
        self.disturb()
        eventually(self._is_quiet, within=60, every=0.004, what=f"the fleet has done all there is at {now}")
        self._work()
        if self.step % _HARVEST == 0:
            self.harvest()

    def disturb(self) -> None:
        """Do harm at a step, besides what happens to the schedulers."""

    def finish(self) -> None:
        """End all jobs, and let the fleet notice it."""
        while self.core.redis.call("ZCARD", keys.RUNS_OPEN):
            self._work(ends=1.0)
            self.go_to(self.now + timedelta(seconds=1))
        self.harvest()

    def harvest(self) -> None:
        for model in self.models:
            self.runs |= {run.id: run for run in self.core.schedules.runs.runs(model.schedule, limit=100)}

    def _next_time(self) -> datetime:
        """Return a time shortly after the next run is due, or, once in a while, long after it."""
        due = min(model.next_run_at for model in self.models)
        seconds = self.rng.choices(
            [self.rng.uniform(0, 240), self.rng.uniform(300, 3000), self.rng.uniform(7200, 32400)], [8, 1, 1]
        )[0]
        return max(due, self.now) + timedelta(milliseconds=int(seconds * 1000))

    def _is_quiet(self) -> bool:
        self.fleet.tend(self.step)
        store, redis = self.core.schedules.store, self.core.redis
        if store.last_tick() != self.now or redis.call("ZCOUNT", keys.SCHEDULES_DUE, 0, self._milliseconds()):
            return False
        for job_id in redis.call("ZRANGE", keys.JOBS_WATCHED, 0, -1):  # as the reconciler does after some seconds
            if redis.call("HGET", keys.job(job_id), "step"):
                self.core.recovery.continue_request(job_id)
        return not self.core.schedules.runs.open_runs(self.now)

    def _milliseconds(self) -> int:
        return round(self.now.timestamp() * 1000)

    def _open_jobs(self) -> list[Job]:
        found = [
            self.core.jobs.page(limit=100, before=None, state=state, source=None)[0] for state in ("queued", "running")
        ]
        return [job for jobs in found for job in jobs]

    def _work(self, ends: float = 0.6) -> None:
        """Let workers and users end some of the jobs, and note what that makes of the runs."""
        models = {model.schedule.id: model for model in self.models}
        for job in self._open_jobs():
            if self.rng.random() >= ends:
                continue
            assert job.run is not None
            model = models[job.run.schedule]
            state, note = self._end(job)
            if model.open is not None:
                assert model.open.slot == job.run.slot
                model.end(state, note)

    def _end(self, job: Job) -> tuple[str, str | None]:
        """End a job in one of several ways. Return the state and the note of its run."""
        is_large = job.images.total > _BATCH
        how = self.rng.choices(
            ["succeeded", "failed", "canceled", "deleted"], [2, 1, 8, 1] if is_large else [12, 3, 2, 1]
        )[0]
        if how in ("succeeded", "failed"):
            self._settle(job, how)
            return how, None
        self.core.jobs.cancel(job.id)
        if how == "deleted":
            self.core.jobs.delete(job.id)
            self.deleted.add(job.id)
            return "canceled", ANY_NOTE  # JOB_REMOVED, or none if a tick was faster than the deletion
        return "canceled", None

    def _settle(self, job: Job, state: str) -> None:
        outcome = Outcome(error=LOST if state == "failed" else None)
        ids = self.core.redis.call("ZRANGE", keys.job_tasks(job.id), 0, -1)
        assert len(ids) == len(set(ids)) == job.images.total
        for start in range(0, len(ids), _BATCH):
            claims = self.core.claims.claim([(task_id, 0, NORMAL) for task_id in ids[start : start + _BATCH]])
            assert all(claims)
            assert all(self.core.claims.settle(state, [(claim, outcome) for claim in claims if claim]))

    def check(self) -> None:
        """Compare what happened with what must have happened."""
        wrong: list[str] = []
        by_schedule: dict[str, list[Run]] = {model.schedule.id: [] for model in self.models}
        for run in self.runs.values():
            by_schedule[run.schedule].append(run)
        for model in self.models:
            wrong += [
                f"{model.schedule.definition.name} {text}"
                for text in _differences(model, by_schedule[model.schedule.id])
            ]
        assert not wrong, "\n".join([f"SCHEDULE_SEED={SEED} SCHEDULE_SLOTS={SLOTS}", *wrong])
        self._check_jobs()

    def _check_jobs(self) -> None:
        """Each run that was not skipped has one job, each job has a run, and all tasks are those of jobs."""
        redis = self.core.redis
        jobs: list[Job] = []
        before = None
        while True:
            page, before = self.core.jobs.page(limit=500, before=before, state=None, source=None)
            jobs += page
            if before is None:
                break
        started = {run.job for run in self.runs.values() if run.state != "skipped"}
        assert Counter(job.id for job in jobs) == Counter(started - self.deleted)
        assert all(job.run and self.runs[job.run.run].job == job.id for job in jobs)
        assert all(redis.call("ZCARD", keys.job_tasks(job.id)) == job.images.total for job in jobs)
        tasks = [key for key in redis.client.scan_iter(keys.task("*"), count=1000) if key.count(":") == 2]
        assert len(tasks) == sum(job.images.total for job in jobs)
        assert redis.call("ZCARD", keys.RUNS_OPEN) == redis.call("ZCARD", keys.TASKS_QUEUED) == 0


def _differences(model: ModelOfSchedule, runs: list[Run]) -> list[str]:
    slots = Counter(run.slot for run in runs)
    found = [f"{slot}: {count} runs" for slot, count in slots.items() if count > 1]
    found += [f"{slot}: no run" for slot in model.expected if slot not in slots]
    found += [f"{slot}: a run that must not be" for slot in slots if slot not in model.expected]
    expected = [(model.expected[run.slot], run) for run in runs if run.slot in model.expected]
    found += [text for each, run in expected if (text := each.difference(run))]
    return found + [f"{run.slot}: it has not ended" for run in runs if run.finished_at is None]


@pytest.fixture
def simulation(redis_url: str, tmp_path: Path) -> Iterator[Simulation]:
    with closing(core_of(redis_url)) as core:
        core.redis.call("SET", CLOCK, round(_START.timestamp() * 1000))
        with Fleet(redis_url, tmp_path / "schedulers.log", random.Random(f"{SEED}-fleet")) as fleet:
            yield Simulation(core, fleet, random.Random(f"{SEED}-time"))


def say(simulation: Simulation) -> None:
    happened = ", ".join(f"{count} {what}" for what, count in simulation.fleet.happened.items())
    sys.stdout.write(f"SCHEDULE_SEED={SEED}: {simulation.slots} slots in {simulation.step} steps, {happened}\n")


@pytest.mark.timeout(120 + SLOTS)
def test_each_slot_has_one_run_while_schedulers_are_killed_and_frozen(simulation: Simulation) -> None:
    simulation.pass_slots(SLOTS)
    simulation.finish()
    say(simulation)
    simulation.check()


@pytest.mark.timeout(120 + SLOTS)
def test_nothing_runs_twice_and_all_goes_on_while_the_clock_jumps_by_years(simulation: Simulation) -> None:
    year = timedelta(days=365)
    jumps = [year, -year, -year, year]
    for jump in jumps:
        simulation.pass_slots(SLOTS // 8)
        simulation.go_to(simulation.now + jump)
    simulation.pass_slots(SLOTS // 2)
    simulation.finish()
    say(simulation)
    simulation.check()


class _RedisKills(Simulation):
    """Kills Redis at some steps, while schedulers work, and starts it again."""

    server: ValkeyServer

    def disturb(self) -> None:
        if self.step % 8 == 4:
            eventually(self._has_begun, within=60, every=0.001, what="a scheduler works")
            self.server.kill()
            self.server.restart()
            self.fleet.happened["restarts of Redis"] += 1

    def _has_begun(self) -> bool:
        self.fleet.tend(self.step)
        return self.core.schedules.store.last_tick() == self.now


@pytest.mark.timeout(120 + SLOTS)
def test_no_slot_runs_twice_or_is_lost_while_redis_is_killed(tmp_path: Path) -> None:
    with ValkeyServer(tmp_path, append_only=True) as server, closing(core_of(server.url)) as core:
        core.redis.call("SET", CLOCK, round(_START.timestamp() * 1000))
        with Fleet(server.url, tmp_path / "schedulers.log", random.Random(f"{SEED}-fleet")) as fleet:
            simulation = _RedisKills(core, fleet, random.Random(f"{SEED}-redis"))
            simulation.server = server
            simulation.pass_slots(SLOTS // 2)
            simulation.finish()
            say(simulation)
            simulation.check()
