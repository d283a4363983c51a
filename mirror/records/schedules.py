"""Schedules in Redis. Their times are those of the wall clock, because slots are."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from marshmallow import ValidationError, fields

from mirror.background import record_fault
from mirror.errors import ScheduleChanged, ScheduleExists, ScheduleUnknown
from mirror.records.fields import Count, Moment, RecordSchema, Text, at, record_fields
from mirror.records.schedule import Schedule, ScheduleHealth
from mirror.records.schedule_schema import SCHEDULE_ID, dump_definition, read_stored_definition
from mirror.redis import keys
from mirror.redis.client import Redis
from mirror.redis.scripts import load_script

_FAULTY_SECONDS: Final = 600
"""Seconds after which a due schedule that this release cannot read or start is looked at again."""
_PAGE: Final = 100
_PAGE_BYTES: Final = 8 * 2**20
"""Bytes of definitions after which a page ends early. One definition may have 4 MiB."""
_STEP: Final = 500
"""Outlines that one script reads. It takes about a millisecond."""
_MOST_STEPS: Final = 40
"""Steps in which one page looks for schedules that match. Then it ends early."""
_OUTLINE: Final = 7
"""Values of one schedule in the answer of outline_schedules.lua."""
_HEALTH: Final = ("last_run", "last_run_at", "last_state", "last_success_at", "consecutive_failures")


@dataclass(frozen=True, slots=True)
class ScheduleOutline:
    """What a list looks at before it reads whole schedules. *size* is that of the definition in bytes."""

    id: str
    name: str
    next_run_at: datetime | None
    health: ScheduleHealth
    labels: Mapping[str, str]
    size: int


class ScheduleStore:
    """All schedules. Safe to share between threads. Every method raises RedisUnavailable."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._put = redis.script(load_script("mirror.records", "put_schedule.lua"))
        self._delete = redis.script(load_script("mirror.records", "delete_schedule.lua"))
        self._outline = redis.script(load_script("mirror.records", "outline_schedules.lua"))
        self._rearm = redis.script(load_script("mirror.records", "rearm_schedule.lua"))
        self._note_tick = redis.script(load_script("mirror.records", "note_tick.lua"))

    def now(self) -> datetime:
        """Return the wall clock of Redis. It may jump, unlike `Redis.now`."""
        seconds, microseconds = self._redis.call("TIME")
        return at(int(seconds) * 1000 + int(microseconds) // 1000)

    def put(self, schedule: Schedule, *, replaces: int | None = None, keeps_slot: bool = False) -> None:
        """Store a new schedule, or replace the version *replaces*.

        With *keeps_slot* its next slot stays as it is in Redis: a scheduler may have moved it on meanwhile.

        Raises ScheduleExists for a name that another schedule has, ScheduleUnknown, or ScheduleChanged if it has
        another version.
        """
        definition = schedule.definition
        changed = {
            "definition": json.dumps(dump_definition(definition)),
            "labels": json.dumps(dict(definition.labels)),
            "deadline": int(definition.deadline.total_seconds() * 1000) if definition.deadline else None,
            **{name: getattr(schedule, name) for name in ("version", "origin", "owner")},
            **_SCHEMA.dump({"updated_at": schedule.updated_at}),
        }
        if not keeps_slot:
            changed |= _SCHEMA.dump({"next_slot": schedule.next_slot, "next_run_at": schedule.next_run_at})
        if replaces is None:
            created = _SCHEMA.dump({"created_at": schedule.created_at})
            changed |= {"id": schedule.id, "open_run": "", "queued_run": "", **created}
        written = json.dumps(record_fields({**changed, "name": definition.name}))
        wanted = "" if replaces is None else str(replaces)
        run_at = "keep" if keeps_slot else milliseconds(schedule.next_run_at)
        result, version = self._put(args=[schedule.id, wanted, definition.name, written, run_at])
        if result == "name taken":
            raise ScheduleExists(definition.name)
        if result == "unknown":
            raise ScheduleUnknown(definition.name)
        if result == "changed":
            raise ScheduleChanged(definition.name, version)

    def delete(self, schedule: Schedule, *, version: int | None = None) -> None:
        """Delete a schedule with its runs. One that is gone already is as the caller wants it.

        Raises ScheduleChanged for another *version*.
        """
        result = self._delete(args=[schedule.id, "" if version is None else version])
        if result == "changed":
            raise ScheduleChanged(schedule.definition.name, None)

    def schedule(self, name: str) -> Schedule:
        """Return a schedule by its name or its id. Raises ScheduleUnknown."""
        schedule_id = name if SCHEDULE_ID.fullmatch(name) else self._redis.call("HGET", keys.SCHEDULE_NAMES, name)
        for found in self._read([schedule_id] if schedule_id else []):
            return found
        raise ScheduleUnknown(name)

    def page(
        self,
        *,
        limit: int,
        after: str | None = None,
        wanted: Callable[[ScheduleOutline], bool] | None = None,
    ) -> tuple[list[Schedule], str | None]:
        """Return at most *limit* schedules after the id *after*, the oldest first.

        The second value is the id to continue from, if any. A page may be short and still have one: if its definitions
        are large, or if among 20 000 schedules too few are *wanted*.
        """
        chosen: list[str] = []
        size, place, step = 0, after, limit + 1 if wanted is None else _STEP
        for _ in range(_MOST_STEPS):
            outlines = self._outlines(place, step)
            for outline in outlines:
                if wanted is None or wanted(outline):
                    if len(chosen) == limit or (chosen and size + outline.size > _PAGE_BYTES):
                        return self._read(chosen), place
                    chosen.append(outline.id)
                    size += outline.size
                place = outline.id
            if len(outlines) < step:
                return self._read(chosen), None
        return self._read(chosen), place

    def outlines(self) -> Iterator[ScheduleOutline]:
        """Yield the outline of every schedule, the oldest first. 10 000 schedules take 20 round trips."""
        place: str | None = None
        while outlines := self._outlines(place, _STEP):
            yield from outlines
            place = outlines[-1].id

    def all(self) -> list[Schedule]:
        """Return every schedule, read in pages."""
        found, place = self.page(limit=_PAGE)
        while place:
            more, place = self.page(limit=_PAGE, after=place)
            found += more
        return found

    def due(self, now: datetime, limit: int) -> list[Schedule]:
        """Return at most *limit* schedules whose next run is due, the longest due first."""
        ids = self._redis.call("ZRANGEBYSCORE", keys.SCHEDULES_DUE, 0, milliseconds(now), "LIMIT", 0, limit)
        found = self._read(ids)
        self.postpone(set(ids) - {schedule.id for schedule in found}, now)
        return found

    def postpone(self, ids: Collection[str], now: datetime) -> None:
        """Look at due schedules again after some minutes. Others are due meanwhile, and have their turn."""
        if ids:
            later = milliseconds(now + timedelta(seconds=_FAULTY_SECONDS))
            self._redis.calls([["ZADD", keys.SCHEDULES_DUE, "XX", "GT", later, each] for each in ids])

    def rearm(self, schedule: Schedule, last_tick: datetime, next_slot: datetime, run_at: datetime) -> bool:
        """Set the next slot, unless another process has changed it or has ticked since *last_tick*.

        Return whether it is set.
        """
        times = [milliseconds(moment) for moment in (last_tick, schedule.next_slot, next_slot, run_at)]
        return bool(self._rearm(args=[schedule.id, *times]))

    def last_tick(self) -> datetime | None:
        """Return the wall clock at the last `note_tick`. None before the first one."""
        ticked = self._redis.call("GET", keys.SCHEDULES_TICKED)
        return at(int(ticked)) if ticked else None

    def note_tick(self, last: datetime | None, now: datetime) -> bool:
        """Note the wall clock at a tick, if *last* still is the last one. Return whether it is noted."""
        return bool(self._note_tick(args=[milliseconds(last), milliseconds(now)]))

    def _outlines(self, after: str | None, limit: int) -> list[ScheduleOutline]:
        flat = self._outline(args=[f"({after}" if after else "-", limit])
        return [_outline(flat[start : start + _OUTLINE]) for start in range(0, len(flat), _OUTLINE)]

    def _read(self, ids: Sequence[str]) -> list[Schedule]:
        """Read schedules. One that this release cannot read is left out, and logged."""
        records = self._redis.calls([["HGETALL", keys.schedule(schedule_id)] for schedule_id in ids])
        return [schedule for record in records if record and (schedule := _readable(record))]


def _readable(record: Mapping[str, str]) -> Schedule | None:
    try:
        loaded = _SCHEMA.load(record)
        definition = read_stored_definition(record["definition"])
    except (ValidationError, ValueError, KeyError) as error:
        record_fault("reading a schedule", error, schedule_id=record.get("id"))
        return None
    health = ScheduleHealth(**{name: loaded.pop(name) for name in _HEALTH})
    return Schedule(definition=definition, health=health, **loaded)


def _outline(texts: Sequence[str]) -> ScheduleOutline:
    """Read what outline_schedules.lua returned of one schedule."""
    schedule_id, name, next_run_at, failures, last_success_at, labels, size = texts
    health = ScheduleHealth(last_success_at=_moment(last_success_at), consecutive_failures=int(failures or 0))
    return ScheduleOutline(
        schedule_id, name, _moment(next_run_at), health, json.loads(labels) if labels else {}, int(size)
    )


def _moment(text: str) -> datetime | None:
    return at(int(text)) if text else None


def milliseconds(moment: datetime | None) -> str:
    """Return a time as scripts take it: milliseconds since the epoch, or an empty text for None."""
    return "" if moment is None else str(round(moment.timestamp() * 1000))


class _ScheduleRecordSchema(RecordSchema):
    """The hash of a schedule, without its definition."""

    id = fields.String(required=True)
    version = fields.Integer(required=True)
    origin = fields.String(required=True)
    owner = fields.String(required=True)
    created_at = Moment(required=True)
    updated_at = Moment(required=True)
    next_slot = Moment(load_default=None)
    next_run_at = Moment(load_default=None)
    open_run = Text(load_default=None)
    queued_run = Text(load_default=None)
    last_run = Text(load_default=None)
    last_run_at = Moment(load_default=None)
    last_state = Text(load_default=None)
    last_success_at = Moment(load_default=None)
    consecutive_failures = Count()


_SCHEMA: Final[Any] = _ScheduleRecordSchema()
