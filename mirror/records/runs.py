"""The runs of schedules in Redis.

Any number of schedulers work on them at the same time, and each may die at any line. This makes it right:

- One script claims a slot. It adds the slot to the schedule's claimed slots, stores the run and moves the schedule on,
  all or nothing. A slot that is claimed is never claimed again, whatever the clock does.
- A run is ``starting`` until its job is stored. Until then it keeps the definition that its schedule had when the run
  was opened. So all processes that start it store the same tasks, even if a user changes the schedule meanwhile. The
  script that stores the job also makes the run ``running`` (`JobStore.submit`), so a run has one job.
- One script settles a run. It counts in the health of its schedule once.
- A process that was frozen may come back with an old view. Every script compares what it is given with what is there.
"""

from __future__ import annotations

import json
import re
from dataclasses import replace
from datetime import datetime
from typing import Final, Literal

from mirror.errors import RunUnknown
from mirror.records.run import Run, RunNote, RunState
from mirror.records.schedule import Schedule, ScheduleDefinition
from mirror.records.schedule_schema import read_stored_definition
from mirror.records.schedules import milliseconds
from mirror.redis import keys
from mirror.redis.client import Redis
from mirror.redis.scripts import load_script

RunPlace = Literal["open", "queued", "replaces", "skipped"]
"""What becomes of a claimed run: see claim_slot.lua."""
_RUN_ID: Final = re.compile("run_[0-9A-Z]{26}", re.ASCII)
_STRETCHES_KEPT: Final = 64
"""Stretches of claimed slots that a schedule remembers: see claimed_slots.lua."""
_RUNS_KEPT: Final = 100
_AHEAD_MS: Final = 60_000
"""A slot is not claimed at a time that is further ahead of the last tick. The clock was set back meanwhile."""


class RunStore:
    """All runs. Safe to share between threads. Every method raises RedisUnavailable."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._claim = redis.script(_script("claim_slot.lua"))
        self._open_runs = redis.script(_script("open_runs.lua"))
        self._settle = redis.script(_script("settle_run.lua"))
        self._note = redis.script(_script("note_run.lua"))

    def claim(self, schedule: Schedule, run: Run, place: RunPlace, following: tuple[datetime, datetime] | None) -> bool:
        """Claim the slot of *run* and store the run. Return whether this call has done so.

        *following* are the next slot and the time of its run, for a run that has a slot. If the slot was claimed
        before, only these are stored. If another process has changed the schedule meanwhile, nothing is.
        """
        next_slot, run_at = map(milliseconds, following or (None, None))
        deadline = schedule.definition.deadline
        until = milliseconds(run.created_at + deadline) if deadline else ""
        seen = schedule.version, milliseconds(schedule.next_slot), schedule.open_run or ""
        record = json.dumps(run.to_record())
        result = self._claim(args=[schedule.id, *seen, milliseconds(run.slot), record, next_slot, run_at, until, place])
        return bool(result == "claimed")

    def open_runs(self, now: datetime) -> list[tuple[str, str]]:
        """Return all runs that need something done, each with what open_runs.lua says of it."""
        flat = self._open_runs(args=[milliseconds(now)])
        return list(zip(flat[::2], flat[1::2], strict=True))

    def settle(self, run: Run, *, is_success: bool | None, only: RunState | None = None) -> bool:
        """Store the end of a run. None says that it is neither a success nor a failure of its schedule.

        The run that waits for its end starts. Return whether this call has ended it. With *only*, a run that has
        another state by now is left alone.
        """
        counts = "" if is_success is None else str(int(not is_success))
        record = json.dumps(run.to_record())
        return bool(self._settle(args=[run.id, record, milliseconds(run.finished_at), counts, only or ""]))

    def note_state(self, run: Run, state: RunState) -> bool:
        """Store the next state of a run, unless it has ended or has another state than *run* by now."""
        return bool(self._note(args=[run.id, run.state, "state", state]))

    def note(self, run: Run, note: RunNote) -> bool:
        """Store why a run is being canceled, unless it has ended or has another state than *run* by now."""
        return bool(self._note(args=[run.id, run.state, "note", replace(run, note=note).to_record()["note"]]))

    def definition(self, run: Run) -> ScheduleDefinition | None:
        """Return the definition that a run is started with. None once it is running or has ended.

        Raises ValidationError or ValueError for one that this release cannot read.
        """
        document = self._redis.call("HGET", keys.run(run.id), "definition")
        return read_stored_definition(document) if document else None

    def run(self, run_id: str) -> Run:
        """Raises RunUnknown."""
        record = self._redis.call("HGETALL", keys.run(run_id)) if _RUN_ID.fullmatch(run_id) else None
        if not record:
            raise RunUnknown(run_id)
        return Run.from_record(record)

    def runs(self, schedule: Schedule, *, limit: int, before: str | None = None) -> list[Run]:
        """Return at most *limit* runs older than the run *before*, the newest first."""
        upper = f"({before}" if before else "+"
        ids = self._redis.call("ZREVRANGEBYLEX", keys.schedule_runs(schedule.id), upper, "-", "LIMIT", 0, limit)
        records = self._redis.calls([["HGETALL", keys.run(run_id)] for run_id in ids])
        return [Run.from_record(record) for record in records if record]


def _script(file: str) -> str:
    constants = {"STRETCHES_KEPT": _STRETCHES_KEPT, "RUNS_KEPT": _RUNS_KEPT, "AHEAD_MS": _AHEAD_MS}
    return load_script("mirror.records", file, constants=constants)
