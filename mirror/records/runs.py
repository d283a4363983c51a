"""The runs of schedules in Redis.

Any number of schedulers work on them at the same time, and each may die at any line. This makes it right:

- One script claims a slot. It adds the slot to the schedule's set of claimed slots, stores the run and moves the
  schedule on, all or nothing. A slot that is in the set is never claimed again, whatever the clock does.
- A run is ``starting`` until its job is stored. The script that stores the job also makes the run ``running``
  (`JobStore.submit`), so a run has one job, however many processes try to start it.
- One script settles a run. It counts in the health of its schedule once.
"""

from __future__ import annotations

import json
import re
from dataclasses import replace
from datetime import datetime
from typing import Final, Literal

from mirror.errors import RunUnknown
from mirror.records.run import Run, RunNote, RunState
from mirror.records.schedule import Schedule
from mirror.records.schedules import milliseconds
from mirror.redis import keys
from mirror.redis.client import Redis
from mirror.redis.scripts import load_script

RunPlace = Literal["open", "queued", "replaces", "skipped"]
"""What becomes of a claimed run: see claim_slot.lua."""
_RUN_ID: Final = re.compile("run_[0-9A-Z]{26}", re.ASCII)
_SLOTS_KEPT: Final = 64
"""Claimed slots that a schedule remembers. The oldest are forgotten, and slots before those cannot be claimed."""
_RUNS_KEPT: Final = 100
_RUNS_AT_ONCE: Final = 100


class RunStore:
    """All runs. Safe to share between threads. Every method raises RedisUnavailable."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._claim = redis.script(_script("claim_slot.lua"))
        self._open_runs = redis.script(_script("open_runs.lua"))
        self._settle = redis.script(_script("settle_run.lua"))

    def claim(self, schedule: Schedule, run: Run, place: RunPlace, following: tuple[datetime, datetime] | None) -> bool:
        """Claim the slot of *run* and store the run. Return whether this call has done so.

        *following* are the next slot and the time of its run, for a run that has a slot. If the slot was claimed
        before, only these are stored. If another process has changed the schedule meanwhile, nothing is.
        """
        next_slot, run_at = map(milliseconds, following or (None, None))
        deadline = schedule.definition.deadline
        until = milliseconds(run.created_at + deadline) if deadline else ""
        seen = milliseconds(schedule.next_slot), schedule.open_run or ""
        record = json.dumps(run.to_record())
        result = self._claim(args=[schedule.id, *seen, milliseconds(run.slot), record, next_slot, run_at, until, place])
        return bool(result == "claimed")

    def open_runs(self, now: datetime) -> list[tuple[str, str]]:
        """Return the runs that need something done, each with what open_runs.lua says of it."""
        flat = self._open_runs(args=[milliseconds(now)])
        return list(zip(flat[::2], flat[1::2], strict=True))

    def settle(self, run: Run, *, is_success: bool | None) -> bool:
        """Store the end of a run. None says that it is neither a success nor a failure of its schedule.

        The run that waits for its end starts. Return whether this call has ended it.
        """
        counts = "" if is_success is None else str(int(not is_success))
        record = json.dumps(run.to_record())
        return bool(self._settle(args=[run.id, record, milliseconds(run.finished_at), counts]))

    def note_state(self, run: Run, state: RunState) -> None:
        """Store the state of an open run."""
        self._redis.call("HSET", keys.run(run.id), "state", state)

    def note(self, run: Run, note: RunNote) -> None:
        """Store why an open run is being canceled."""
        self._redis.call("HSET", keys.run(run.id), "note", replace(run, note=note).to_record()["note"])

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
    constants = {"SLOTS_KEPT": _SLOTS_KEPT, "RUNS_KEPT": _RUNS_KEPT, "RUNS_AT_ONCE": _RUNS_AT_ONCE}
    return load_script("mirror.records", file, constants=constants)
