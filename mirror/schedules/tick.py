"""Start the runs that are due. Any number of schedulers may do this at the same time.

`decide` is pure. It says what becomes of a schedule that is due. `RunStore.claim` then makes it so, once.

After a time in which no scheduler worked, only the last slot of a schedule can still run. The slots before it are
counted as missed. If even the last slot is late, ``catch_up`` decides.

The wall clock may jump. After a jump ahead all slots up to the new time are due, as after a long pause. A jump back
is noticed by the time of the last tick. Then the next slot of every schedule is computed again. Slots that were claimed
before stay claimed. A schedule that was created while the clock was ahead has slots before its creation then.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Final

import structlog

from mirror.background import record_fault
from mirror.errors import RedisUnavailable
from mirror.records.ids import new_ulid
from mirror.records.run import Run, RunNote, RunReason, RunState
from mirror.records.runs import RunPlace, RunStore
from mirror.records.schedule import Schedule
from mirror.records.schedules import ScheduleStore
from mirror.schedules import slots
from mirror.schedules.runs import MISSED, OVERLAP, Runs

LATE: Final = timedelta(minutes=5)
"""A slot that starts later than this after its time is late. Another scheduler takes over within seconds."""
_STEPPED_BACK: Final = timedelta(minutes=1)
"""If the clock is behind the last tick by more than this, it was set back."""
_MISSED_COUNTED: Final = 100
"""Missed slots that are counted at most. Each takes some 40 us."""
_BATCH: Final = 10
"""Schedules that one tick starts. Each takes three milliseconds: see bench/ticks.py."""
_STATES: Final[Mapping[RunPlace, RunState]] = {
    "open": "starting",
    "queued": "queued",
    "replaces": "queued",
    "skipped": "skipped",
}
_LOG = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Decision:
    """What becomes of a schedule that is due: a run for *slot*, and the slot after it with the time of its run."""

    slot: datetime
    reason: RunReason
    missed: int
    place: RunPlace
    note: RunNote | None
    following: tuple[datetime, datetime]


def decide(schedule: Schedule, now: datetime) -> Decision | None:
    """Return what becomes of a schedule at *now*. None if it is not due. No I/O."""
    first = schedule.next_slot
    if first is None or schedule.next_run_at is None or schedule.next_run_at > now:
        return None
    timetable, anchor = schedule.definition.timetable, _anchor(schedule, first)
    slot = slots.last_slot(timetable, now, anchor)
    if slot and slots.run_at(timetable, slot, schedule.id) > now:
        slot = slots.last_slot(timetable, slot - timedelta(milliseconds=1), anchor)
    if slot is None or slot < first:  # the zone's rules have changed since *first* was computed
        slot = first
    before = timedelta(milliseconds=1)
    missed = slots.count_slots(timetable, first - before, slot - before, anchor, _MISSED_COUNTED)
    is_late = now - slots.run_at(timetable, slot, schedule.id) > LATE
    place, note = _place(schedule)
    if is_late and schedule.definition.catch_up == "none":
        place, note = "skipped", RunNote(MISSED, "No scheduler worked at this time, and 'catch_up' is 'none'")
    following = next_run(schedule, slot)
    return Decision(slot, "catch_up" if is_late else "slot", missed, place, note, following)


def next_run(schedule: Schedule, after: datetime) -> tuple[datetime, datetime]:
    """Return the first slot after *after*, and the time of its run."""
    timetable = schedule.definition.timetable
    slot = slots.next_slot(timetable, after, _anchor(schedule, after))
    return slot, slots.run_at(timetable, slot, schedule.id)


def _anchor(schedule: Schedule, moment: datetime) -> datetime:
    """Return a time before *moment* from which the slots of a schedule count: that of its creation, if that is before.

    Otherwise the clock was set back since. Then it is a whole number of periods before the creation.
    """
    created_at, every = schedule.created_at, schedule.definition.timetable.every
    if created_at < moment:
        return created_at
    if every is None:
        return moment - timedelta(days=366)
    return created_at - every * ((created_at - moment) // every + 1)


def _place(schedule: Schedule) -> tuple[RunPlace, RunNote | None]:
    overlap = schedule.definition.overlap
    if schedule.open_run is None:
        return "open", None
    if overlap == "skip":
        return "skipped", RunNote(OVERLAP, f"The run {schedule.open_run} had not ended, and 'overlap' is 'skip'")
    if schedule.queued_run is not None:
        return "skipped", RunNote(OVERLAP, f"The run {schedule.queued_run} waits to be started already")
    return ("queued", None) if overlap == "queue" else ("replaces", None)


def new_run(
    schedule: Schedule,
    now: datetime,
    reason: RunReason,
    place: RunPlace,
    *,
    slot: datetime | None = None,
    missed: int = 0,
    note: RunNote | None = None,
    ignores_brake: bool = False,
) -> Run:
    """Return a run to claim. Its id sorts by *now*."""
    return Run(
        id=f"run_{new_ulid(now)}",
        schedule=schedule.id,
        state=_STATES[place],
        reason=reason,
        created_at=now,
        slot=slot,
        missed=missed,
        ignores_brake=ignores_brake,
        finished_at=now if place == "skipped" else None,
        note=note,
    )


class Ticker:
    """Looks for due schedules and for runs that need something done. *now* is the wall clock.

    Every method raises RedisUnavailable.
    """

    def __init__(self, schedules: ScheduleStore, claims: RunStore, runs: Runs, now: Callable[[], datetime]) -> None:
        self._schedules = schedules
        self._claims = claims
        self._runs = runs
        self._now = now

    def tick(self, alive: Callable[[], bool] = lambda: True) -> bool:
        """Do what is due now, as long as this process is *alive*. Return whether more may be due already."""
        now = self._begin_tick()
        if now is None:
            return False
        for run_id, what in self._claims.open_runs(now):
            if not alive():
                return False
            self._attempt(partial(self._runs.advance, run_id, what), run=run_id)
        due = self._schedules.due(now, _BATCH)
        for schedule in due:
            if not alive():
                return False
            self._begin(schedule, now)
        return len(due) == _BATCH

    def run(self, alive: Callable[[], bool]) -> None:
        """Tick until nothing more is due."""
        while self.tick(alive):
            pass

    def _begin(self, schedule: Schedule, now: datetime) -> None:
        """Claim the slot that is due, and start its run.

        A schedule that has no next slot in this release waits for some minutes. A run whose start fails is tried again
        by the next tick.
        """
        name = schedule.definition.name
        claimed: list[Run] = []
        if not self._attempt(lambda: claimed.extend(self._claim(schedule, now)), schedule=name):
            self._schedules.postpone([schedule.id], now)
        for run in claimed:
            self._attempt(partial(self._runs.start, run, schedule.definition), schedule=name)

    def _claim(self, schedule: Schedule, now: datetime) -> list[Run]:
        """Claim the slot that is due. Return the run to start, if there is one."""
        decision = decide(schedule, now)
        if decision is None:
            return []
        run = new_run(
            schedule,
            now,
            decision.reason,
            decision.place,
            slot=decision.slot,
            missed=decision.missed,
            note=decision.note,
        )
        if not self._claims.claim(schedule, run, decision.place, decision.following):
            return []
        if decision.place == "open":
            return [run]
        facts = {"schedule": schedule.definition.name, "slot": decision.slot.isoformat(), "missed": decision.missed}
        _LOG.info("run is not started", **facts, state=run.state, code=run.note.code if run.note else OVERLAP)
        return []

    def _begin_tick(self) -> datetime | None:
        """Compute the next slots again if the clock was set back. Return the time.

        None means that another scheduler has ticked since. This one may have been frozen, and its time may be old.
        """
        last = self._schedules.last_tick()
        # The time is read after the last tick: if this process is frozen in between, it finds a later time.
        now = self._now()
        if last is not None and now < last - _STEPPED_BACK:
            _LOG.warning("the clock was set back", before=last.isoformat(), now=now.isoformat())
            for schedule in self._schedules.all():
                if schedule.next_slot is not None:
                    self._attempt(partial(self._rearm, schedule, last, now), schedule=schedule.definition.name)
        return now if self._schedules.note_tick(last, now) else None

    def _rearm(self, schedule: Schedule, last: datetime, now: datetime) -> None:
        self._schedules.rearm(schedule, last, *next_run(schedule, now))

    @staticmethod
    def _attempt(step: Callable[[], object], **facts: str) -> bool:
        """Do one step. Return whether it raised nothing: an error of one schedule must not keep others from running."""
        try:
            step()
        except RedisUnavailable:
            raise
        except Exception as error:  # noqa: BLE001 - the others go on
            record_fault("the tick of schedules", error, **facts)
            return False
        return True
