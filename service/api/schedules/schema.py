"""The JSON of schedules, their runs and their previews. A definition is in `mirror.records.schedule_schema`."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import replace
from datetime import timedelta
from typing import Any, ClassVar, Final

from marshmallow import Schema, ValidationError, fields, missing, post_load, pre_load, validate, validates_schema

from mirror.records.job_request import JobRequestSchema
from mirror.records.run import ENDED_RUNS, RUN_REASONS, RUN_STATES
from mirror.records.schedule import Timetable
from mirror.schedules import slots
from mirror.schedules.definition import ScheduleRequestSchema
from mirror.schedules.health import HEALTH_STATES
from mirror.schedules.importers.read import DEFAULT_TIMETABLE, IMPORT_FORMATS
from service.api.jobs.schema import JobSummarySchema
from service.http.pagination import PageQuery, Timestamp, page_schema
from service.http.problems import FieldProblemSchema

_BASE: Final = "http://127.0.0.1:8080/v1/schedules/schedule_01JDB2V3R8Y0N5Q7T9W1X3Z5B6"
_RUN: Final = "run_01JDB2V3R8Y0N5Q7T9W1X3Z5B7"
_TIMES: Final = ("cron", "every", "time_zone", "jitter")
_DEFINITION: Final[Mapping[str, Any]] = ScheduleRequestSchema._declared_fields  # marshmallow has no public name for it
_MOST_TIMES: Final = 100


class SchedulePatchSchema(ScheduleRequestSchema):
    """A JSON Merge Patch (RFC 7396) of a definition: fields to change, and null for those to reset.

    It is checked after it was applied, so that all errors are found at once.
    """

    labels = fields.Dict(keys=fields.String(), values=fields.String(allow_none=True))
    delete_brake: fields.Field[Any] = fields.Dict(keys=fields.String())
    job: fields.Field[Any] = fields.Dict(keys=fields.String())

    def on_bind_field(self, field_name: str, field_obj: fields.Field[Any]) -> None:
        """Show that each field may be left out, and may be null."""
        field_obj.required, field_obj.allow_none, field_obj.load_default = False, True, missing

    def load(self, data: Any, **_: Any) -> Any:
        if not isinstance(data, Mapping):
            raise ValidationError("A merge patch of a schedule is a JSON object.")
        return data


class PreviewRequestSchema(Schema):
    """The times of a schedule, or a whole definition, whose other fields are not looked at. Loads as a `Timetable`."""

    max_body: ClassVar[int] = JobRequestSchema.max_body

    cron, every, time_zone, jitter = (deepcopy(_DEFINITION[name]) for name in _TIMES)

    @pre_load
    def take_times(self, data: Any, **_: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        return {name: value for name, value in data.items() if name in _TIMES or name not in _DEFINITION}

    @validates_schema(skip_on_field_errors=True)
    def require_times(self, data: dict[str, Any], **_: Any) -> None:
        if problems := slots.problems(Timetable(**data)):
            raise ValidationError({field: [message] for field, message in problems.items()})

    @post_load
    def make(self, data: dict[str, Any], **_: Any) -> Timetable:
        return Timetable(**data)


class PreviewQuery(Schema):
    n = fields.Integer(
        load_default=10, validate=validate.Range(1, _MOST_TIMES), metadata={"description": "How many times to show."}
    )


class PreviewTimeSchema(Schema):
    """One time of a timetable."""

    slot = Timestamp(required=True, metadata={"description": "The time in UTC.", "example": "2026-03-29T01:00:00.000Z"})
    local = fields.String(
        required=True,
        metadata={
            "description": "The same in the schedule's time zone, with the offset that is valid then.",
            "example": "2026-03-29T03:00:00+02:00",
        },
    )
    starts_at = Timestamp(
        required=True,
        allow_none=True,
        metadata={
            "description": "When the run starts, with its part of the jitter. That part depends on the id of the "
            "schedule, so it is null for one that is not stored and has a jitter."
        },
    )


class PreviewSchema(Schema):
    """The next times of a timetable. There are fewer than asked for if the calendar ends."""

    time_zone = fields.String(required=True, metadata={"example": "Europe/Paris"})
    description = fields.String(
        required=True, metadata={"description": "The timetable in words.", "example": "At 02:30 every day"}
    )
    times = fields.List(fields.Nested(PreviewTimeSchema), required=True)


class NextRunSchema(Schema):
    slot = Timestamp(required=True, metadata={"description": "The time of the timetable."})
    starts_at = Timestamp(required=True, metadata={"description": "The same, later by a part of the jitter."})


class LastRunSchema(Schema):
    """The run that ended last. Skipped runs do not count."""

    id = fields.String(required=True, metadata={"example": _RUN})
    state = fields.String(required=True, validate=validate.OneOf(ENDED_RUNS), metadata={"example": "succeeded"})
    at = Timestamp(required=True, metadata={"description": "When it ended."})


class ScheduleHealthSchema(Schema):
    """How the last runs went."""

    state = fields.String(
        required=True,
        validate=validate.OneOf(HEALTH_STATES),
        metadata={
            "description": "`late`: a run is due since more than five minutes, and no scheduler has started it. "
            "`failing`: the last run has not succeeded. `new`: no run has succeeded or failed yet.",
            "example": "healthy",
        },
    )
    last_run = fields.Nested(LastRunSchema, required=True, allow_none=True)
    last_success_at = Timestamp(required=True, allow_none=True)
    lag_seconds = fields.Integer(
        required=True,
        allow_none=True,
        metadata={"description": "Since the last success. Null before the first one.", "example": 5312},
    )
    consecutive_failures = fields.Integer(
        required=True, metadata={"description": "Runs since the last success that failed.", "example": 0}
    )
    running = fields.String(
        required=True, allow_none=True, metadata={"description": "The run that has not ended.", "example": _RUN}
    )
    queued = fields.String(required=True, allow_none=True, metadata={"description": "The run that waits for its end."})


class ScheduleLinksSchema(Schema):
    self = fields.String(required=True, metadata={"example": _BASE})
    run = fields.String(required=True, metadata={"description": "POST to it to run now.", "example": f"{_BASE}/run"})
    runs = fields.String(required=True, metadata={"example": f"{_BASE}/runs"})
    preview = fields.String(required=True, metadata={"example": f"{_BASE}/preview"})
    drift = fields.String(
        required=True, metadata={"description": "What a run would change now.", "example": f"{_BASE}/drift"}
    )


class _AsWritten(fields.Nested):
    """A document that is shown as it was written."""

    def _serialize(self, value: Any, *_: Any, **__: Any) -> Any:  # type: ignore[override]  # Nested names it otherwise
        return value


class ScheduleSchema(ScheduleRequestSchema):
    """A schedule: its definition with all defaults, its next run, and how its last runs went."""

    job: fields.Field[Any] = _AsWritten(
        JobRequestSchema, required=True, metadata={"description": "What each run does, as it was written."}
    )
    id = fields.String(required=True, metadata={"example": "schedule_01JDB2V3R8Y0N5Q7T9W1X3Z5B6"})
    version = fields.Integer(
        required=True, metadata={"description": "Grows with each change of the definition. It is the ETag."}
    )
    origin = fields.String(
        required=True,
        validate=validate.OneOf(["api", "file"]),
        metadata={"description": "`file`: the sync file made it, and only that file changes it."},
    )
    owner = fields.String(required=True, metadata={"example": "admin"})
    created_at = Timestamp(required=True)
    updated_at = Timestamp(required=True)
    next_run = fields.Nested(
        NextRunSchema, required=True, allow_none=True, metadata={"description": "Null while it is disabled."}
    )
    health = fields.Nested(ScheduleHealthSchema, required=True)
    links = fields.Nested(ScheduleLinksSchema, required=True)

    def on_bind_field(self, field_name: str, field_obj: fields.Field[Any]) -> None:
        """Show that a response has every field. So none has a default."""
        field_obj.required, field_obj.load_default = True, missing


SchedulePageSchema = page_schema("SchedulePageSchema", ScheduleSchema)


class ScheduleQuery(PageQuery):
    label = fields.String(
        load_default=None,
        validate=validate.Regexp(r"[^=]+=", error="Write it as 'name=value'."),
        metadata={
            "description": "Only schedules with this label. Then a page may be short, and still have a `next`.",
            "example": "team=base",
        },
    )
    state = fields.String(
        load_default=None,
        validate=validate.OneOf(HEALTH_STATES),
        metadata={"description": "Only schedules whose `health` has this state."},
    )


class RunNowSchema(Schema):
    """How to run now. The body may be left out."""

    is_optional: ClassVar[bool] = True

    ignore_brake = fields.Boolean(
        load_default=False,
        metadata={"description": "Delete what the source has deleted, also if it is more than `delete_brake` allows."},
    )


class RunNoteSchema(Schema):
    code = fields.String(required=True, metadata={"description": "Stable.", "example": "OVERLAP"})
    message = fields.String(required=True)


class RunLinksSchema(Schema):
    self = fields.String(required=True, metadata={"example": f"{_BASE}/runs/{_RUN}"})
    schedule = fields.String(required=True, metadata={"example": _BASE})


class RunSchema(Schema):
    """One run of a schedule, with its job."""

    id = fields.String(required=True, metadata={"example": _RUN})
    schedule = fields.String(required=True, metadata={"example": "schedule_01JDB2V3R8Y0N5Q7T9W1X3Z5B6"})
    state = fields.String(required=True, validate=validate.OneOf(RUN_STATES), metadata={"example": "succeeded"})
    reason = fields.String(required=True, validate=validate.OneOf(RUN_REASONS), metadata={"example": "slot"})
    slot = Timestamp(
        required=True,
        allow_none=True,
        metadata={"description": "The time of the timetable. Null for the reasons `manual` and `changed`."},
    )
    missed = fields.Integer(
        required=True, metadata={"description": "Times before it that were missed, because no scheduler worked."}
    )
    ignores_brake = fields.Boolean(required=True)
    created_at = Timestamp(required=True)
    finished_at = Timestamp(required=True, allow_none=True)
    note = fields.Nested(
        RunNoteSchema,
        required=True,
        allow_none=True,
        metadata={"description": "Why it was skipped, canceled or has failed, or what it could not do."},
    )
    upstream = fields.Dict(
        keys=fields.String(),
        required=True,
        allow_none=True,
        metadata={"description": "How many tags the source has deleted or moved. Null if that was not looked for."},
    )
    job = fields.Nested(
        JobSummarySchema,
        required=True,
        allow_none=True,
        metadata={"description": "Null before it is stored, for a skipped run, and after the job was removed."},
    )
    links = fields.Nested(RunLinksSchema, required=True)


RunPageSchema = page_schema("RunPageSchema", RunSchema)


class ImportQuery(Schema):
    """Which tool's configuration is imported. `cron` or `every` is for schedules for which the text says no time."""

    format = fields.String(
        required=True,
        validate=validate.OneOf(("mirror", *IMPORT_FORMATS)),
        metadata={
            "description": "The tool whose configuration it is. `mirror` is a `mirror.yaml`.",
            "example": "regsync",
        },
    )
    dry_run = fields.Boolean(load_default=False, metadata={"description": "Only say what would become of the text."})
    cron, every, time_zone, jitter = (deepcopy(_DEFINITION[name]) for name in _TIMES)

    @validates_schema(skip_on_field_errors=True)
    def require_times(self, data: dict[str, Any], **_: Any) -> None:
        timetable = Timetable(**{name: data[name] for name in _TIMES})
        if timetable.cron is None and timetable.every is None:
            timetable = replace(timetable, every=timedelta(days=1))
        if problems := slots.problems(timetable):
            raise ValidationError({field: [message] for field, message in problems.items()})

    @post_load(pass_original=True)
    def make(self, data: dict[str, Any], original: Mapping[str, Any], **_: Any) -> dict[str, Any]:
        """Keep the fields of the timetable as they were written."""
        given = {name: original[name] for name in _TIMES if name in original}
        timetable = given if "cron" in given or "every" in given else {**DEFAULT_TIMETABLE, **given}
        return {"format": data["format"], "dry_run": data["dry_run"], "timetable": timetable}


class ImportedScheduleSchema(Schema):
    """A schedule that an import has found."""

    name = fields.String(required=True, metadata={"example": "alpine"})
    outcome = fields.String(
        required=True,
        validate=validate.OneOf(["created", "exists", "invalid"]),
        metadata={
            "description": "What it is, or in a dry run would be. `exists`: a schedule of this name stays as it is."
        },
    )
    definition = fields.Dict(
        keys=fields.String(), required=True, metadata={"description": "As `POST /v1/schedules` takes it."}
    )
    problems = fields.List(
        fields.Nested(FieldProblemSchema), required=True, metadata={"description": "Why it is `invalid`."}
    )


class LeftOutSchema(Schema):
    path = fields.String(required=True, metadata={"example": "sync[2].ratelimit.min"})
    line = fields.Integer(required=True, allow_none=True, metadata={"example": 14})
    reason = fields.String(required=True, metadata={"description": "It also says what to do instead."})


class ImportSchema(Schema):
    """What became of the configuration of another tool."""

    dry_run = fields.Boolean(required=True)
    schedules = fields.List(fields.Nested(ImportedScheduleSchema), required=True)
    ignored = fields.List(
        fields.Nested(LeftOutSchema), required=True, metadata={"description": "Keys that have no effect."}
    )
    refused = fields.List(
        fields.Nested(LeftOutSchema), required=True, metadata={"description": "Entries that made no schedule."}
    )
    notes = fields.List(fields.String(), required=True, metadata={"description": "About the text as a whole."})
