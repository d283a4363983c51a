"""A run of a schedule: one time at which its job was, or was not, started.

The job of a run shares its ULID: the job of ``run_01J…`` is ``job_01J…``. So a run has at most one job, however often
its start is tried.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal, Self, get_args

from marshmallow import fields, post_load

from mirror.records.fields import Count, Flag, Json, Moment, RecordSchema, record_fields

RunReason = Literal["slot", "catch_up", "manual", "changed"]
RUN_REASONS: Final[tuple[RunReason, ...]] = get_args(RunReason)
RunState = Literal[
    "queued", "starting", "running", "following", "succeeded", "partial", "failed", "canceled", "skipped"
]
RUN_STATES: Final[tuple[RunState, ...]] = get_args(RunState)
ENDED_RUNS: Final[tuple[RunState, ...]] = ("succeeded", "partial", "failed", "canceled", "skipped")


@dataclass(frozen=True, slots=True)
class RunNote:
    """Why a run was skipped, canceled or has failed, or what it could not do. *code* is a stable word."""

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Run:
    """A run as it stands in Redis.

    *slot* is the time of the timetable that it stands for, None for other reasons. *missed* are the slots before it
    that were missed, because no scheduler worked. Times are by the wall clock. With *ignores_brake* it deletes tags
    even if they are more than the brake of its schedule allows. *upstream* says what the source has deleted and moved.
    """

    id: str
    schedule: str
    state: RunState
    reason: RunReason
    created_at: datetime
    slot: datetime | None = None
    missed: int = 0
    ignores_brake: bool = False
    finished_at: datetime | None = None
    note: RunNote | None = None
    upstream: Mapping[str, int] | None = None

    @property
    def job(self) -> str | None:
        """The id of its job. None for a run that never gets one."""
        return None if self.state == "skipped" else f"job_{self.id.partition('_')[2]}"

    @property
    def origin(self) -> RunOrigin:
        return RunOrigin(self.id, self.schedule, self.reason, self.slot)

    @classmethod
    def from_record(cls, record: Mapping[str, str]) -> Self:
        """Read a run's hash."""
        run: Self = _SCHEMA.load(record)
        return run

    def to_record(self) -> dict[str, str]:
        """Return the fields of the hash."""
        note = None if self.note is None else {"code": self.note.code, "message": self.note.message}
        own = {name: getattr(self, name) for name in _SCHEMA.dump_fields}
        return record_fields(_SCHEMA.dump({**own, "note": note}))


@dataclass(frozen=True, slots=True)
class RunOrigin:
    """What a job keeps of the run that it belongs to."""

    run: str
    schedule: str
    reason: RunReason
    slot: datetime | None = None

    @property
    def job(self) -> str:
        return f"job_{self.run.partition('_')[2]}"


class RunOriginSchema(RecordSchema):
    """A `RunOrigin` as JSON in the record of its job."""

    run = fields.String(required=True)
    schedule = fields.String(required=True)
    reason = fields.String(required=True)
    slot = Moment(load_default=None)

    @post_load
    def make(self, data: dict[str, Any], **_: Any) -> RunOrigin:
        return RunOrigin(**data)


class _RunRecordSchema(RecordSchema):
    """The hash of a run."""

    id = fields.String(required=True)
    schedule = fields.String(required=True)
    state = fields.String(required=True)
    reason = fields.String(required=True)
    created_at = Moment(required=True)
    slot = Moment(load_default=None)
    missed = Count()
    ignores_brake = Flag(load_default=False)
    finished_at = Moment(load_default=None)
    note = Json(load_default=None)
    upstream = Json(load_default=None)

    @post_load
    def make(self, data: dict[str, Any], **_: Any) -> Run:
        note = data.pop("note")
        return Run(**data, note=RunNote(str(note["code"]), str(note["message"])) if note else None)


_SCHEMA: Final = _RunRecordSchema()
