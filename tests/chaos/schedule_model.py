"""What a schedule must have done, computed from its slots and from the times at which schedulers looked.

It knows nothing of processes: at each time all due schedules have their turn once.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final

from mirror.records.run import Run
from mirror.records.schedule import Schedule
from mirror.schedules import slots

_LATE: Final = timedelta(minutes=5)
_STEP_BACK: Final = timedelta(minutes=1)
_MOST_MISSED: Final = 100
ANY_NOTE: Final = "any"
_LONG_AGO: Final = datetime(2000, 1, 1, tzinfo=UTC)


@dataclass
class Expected:
    """A run that must exist. *state* is how it stands, or None if that depends on which process is faster.

    *note* is the code of its note, or `ANY_NOTE` if that depends on it.
    """

    slot: datetime
    reason: str
    missed: int
    state: str | None
    note: str | None = None

    def difference(self, run: Run) -> str | None:
        """Return in what a run differs from this, or None."""
        note = run.note and run.note.code
        found = (run.reason, run.missed, run.state, note)
        own = (self.reason, self.missed, self.state or run.state, note if self.note == ANY_NOTE else self.note)
        if self.state is None:
            own = (*own[:3], note)
        return None if own == found else f"{self.slot}: expected {own}, found {found}"


@dataclass
class ModelOfSchedule:
    """One schedule. With *is_loose* the states of its runs are not compared."""

    schedule: Schedule
    is_loose: bool = False
    expected: dict[datetime, Expected] = field(default_factory=dict)
    open: Expected | None = None
    queued: Expected | None = None

    def __post_init__(self) -> None:
        timetable, anchor = self.schedule.definition.timetable, self.schedule.created_at
        if timetable.every is not None:
            anchor -= timetable.every * ((anchor - _LONG_AGO) // timetable.every)
        self.anchor = anchor if timetable.every is not None else _LONG_AGO
        self.rearm(self.schedule.created_at)

    def rearm(self, now: datetime) -> None:
        """The clock was set back to *now*."""
        self.next_slot = slots.next_slot(self.schedule.definition.timetable, now, self.anchor)

    @property
    def next_run_at(self) -> datetime:
        return self._run_at(self.next_slot)

    def end(self, state: str, note: str | None = None) -> None:
        """The job of the open run has ended."""
        assert self.open is not None
        self.open.state, self.open.note = state, note

    def tick(self, now: datetime) -> None:
        """Schedulers look at *now*, until there is nothing more to do."""
        if self.open is not None and self.open.state != "running":
            self._open_next()
        if self.next_run_at > now:
            return
        slot, missed = self._last_due(now)
        self.next_slot = slots.next_slot(self.schedule.definition.timetable, slot, self.anchor)
        if slot in self.expected:
            return
        is_late = now - self._run_at(slot) > _LATE
        run = self.expected[slot] = Expected(slot, "catch_up" if is_late else "slot", missed, "running")
        if self.is_loose:
            run.state = None
        else:
            self._place(run, is_late=is_late)

    def _place(self, run: Expected, *, is_late: bool) -> None:
        """Say what becomes of a claimed run, by the rules of *catch_up* and *overlap*."""
        if is_late and self.schedule.definition.catch_up == "none":
            run.state, run.note = "skipped", "MISSED"
        elif self.open is None:
            self.open = run
        elif self.schedule.definition.overlap == "skip" or self.queued is not None:
            run.state, run.note = "skipped", "OVERLAP"
        else:
            run.state, self.queued = "queued", run
            if self.schedule.definition.overlap == "cancel_running":
                self.end("canceled", "OVERLAP")
                self._open_next()

    def _open_next(self) -> None:
        self.open, self.queued = self.queued, None
        if self.open is not None:
            self.open.state = "running"

    def _last_due(self, now: datetime) -> tuple[datetime, int]:
        """Return the last slot whose run is due at *now*, and how many due ones are before it."""
        timetable = self.schedule.definition.timetable
        last = slots.last_slot(timetable, now, self.anchor)
        while last is not None and self._run_at(last) > now:
            last = slots.last_slot(timetable, last - timedelta(seconds=1), self.anchor)
        assert last is not None
        missed, slot = 0, self.next_slot
        while slot < last and missed < _MOST_MISSED:
            missed, slot = missed + 1, slots.next_slot(timetable, slot, self.anchor)
        return last, missed

    def _run_at(self, slot: datetime) -> datetime:
        return slots.run_at(self.schedule.definition.timetable, slot, self.schedule.id)


def has_stepped_back(before: datetime, now: datetime) -> bool:
    return now < before - _STEP_BACK
