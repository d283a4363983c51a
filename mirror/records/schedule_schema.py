"""The JSON of a schedule's definition: the same in a request, a response, a record and the sync file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any, ClassVar, Final

from marshmallow import Schema, ValidationError, fields, post_load, validate, validates_schema

from mirror.records.job_request import ImageRequest, JobRequest, JobRequestSchema
from mirror.records.rule_fields import Duration
from mirror.records.rules import ON_MOVES
from mirror.records.schedule import (
    CATCH_UPS,
    ON_DELETES,
    OVERLAPS,
    DeleteBrake,
    ScheduleDefinition,
    Timetable,
    UpstreamRules,
)

SCHEDULE_ID: Final = re.compile("schedule_[0-9A-Z]{26}", re.ASCII)
NAME_PATTERN: Final = r"[a-z0-9][a-z0-9._-]{0,62}"
_RESERVED: Final = ("preview", "import", "export")
"""Names that are paths of the API: ``/v1/schedules/export``."""
_NAME: Final = "Write at most 63 characters: a-z, 0-9, '.', '_' and '-', with a letter or a digit first."
_MOST_LABELS: Final = 32
_LABEL: Final = r"[A-Za-z0-9]([A-Za-z0-9._/-]{0,61}[A-Za-z0-9])?"
_LABEL_NAME: Final = "Write at most 63 letters, digits, '.', '_', '/' and '-', with a letter or a digit at both ends."
_BRAKE: Final = DeleteBrake()
_TIMETABLE: Final = ("cron", "every", "time_zone", "jitter")


def _require_own_name(name: str) -> None:
    """Refuse a name that a URL could not tell from something else."""
    if name in _RESERVED or SCHEDULE_ID.fullmatch(name):
        meant = "the id of a schedule" if name not in _RESERVED else "a path of the API"
        raise ValidationError(f"This is {meant}. Choose another name.")


def _require_few(labels: Mapping[str, str]) -> None:
    if len(labels) > _MOST_LABELS:
        raise ValidationError(f"A schedule has at most {_MOST_LABELS} labels.")


class DeleteBrakeSchema(Schema):
    """How many tags one run may delete. If more would be deleted, it deletes none and reports `DELETE_BRAKE`."""

    max_share = fields.Float(
        load_default=_BRAKE.max_share,
        validate=validate.Range(0, 1),
        metadata={"description": "The largest part of all tags that the schedule has mirrored, from 0 to 1."},
    )
    max_count = fields.Integer(
        load_default=_BRAKE.max_count,
        strict=True,
        validate=validate.Range(0, 1_000_000),
        metadata={"description": "The largest number of tags."},
    )

    @post_load
    def make(self, data: dict[str, Any], **_: Any) -> DeleteBrake:
        return DeleteBrake(**data)


class ScheduleDefinitionSchema(Schema):
    """When a job is repeated, and how. Loads as a `ScheduleDefinition`."""

    max_body: ClassVar[int] = JobRequestSchema.max_body

    name = fields.String(
        required=True,
        validate=[validate.Regexp(rf"{NAME_PATTERN}\Z", error=_NAME), _require_own_name],
        metadata={"description": "Unique among all schedules.", "example": "nightly-alpine"},
    )
    cron = fields.String(
        load_default=None,
        allow_none=True,
        validate=validate.Length(1, 200),
        metadata={
            "description": "Minute, hour, day of month, month and day of week, or an alias such as `@daily`. Exactly "
            "one of `cron` and `every` is needed.",
            "example": "30 2 * * *",
        },
    )
    every = Duration(
        load_default=None,
        allow_none=True,
        metadata={
            "type": "string",
            "description": "Such as `6h`, counted from when the schedule was created, in place of `cron`.",
        },
    )
    time_zone = fields.String(
        load_default="UTC",
        validate=validate.Length(1, 64),
        metadata={"description": "The IANA name of the zone of `cron`.", "example": "Europe/Paris"},
    )
    jitter = Duration(
        load_default=timedelta(0),
        metadata={
            "type": "string",
            "description": "Each run is delayed by a part of it, so that not all schedules start at once.",
            "example": "10m",
        },
    )
    enabled = fields.Boolean(load_default=True, metadata={"description": "Whether it runs at its times."})
    overlap = fields.String(
        load_default="skip",
        validate=validate.OneOf(OVERLAPS),
        metadata={
            "description": "What happens at a time at which the last run has not ended: `skip` leaves the new run "
            "out, `queue` starts it after that end, `cancel_running` cancels the old run first."
        },
    )
    catch_up = fields.String(
        load_default="last",
        validate=validate.OneOf(CATCH_UPS),
        metadata={"description": "Of times that were missed while no scheduler worked: run the `last` one, or `none`."},
    )
    deadline = Duration(
        load_default=None,
        allow_none=True,
        metadata={
            "type": "string",
            "description": "A run that takes longer is canceled.",
            "example": "4h",
        },
    )
    run_on_change = fields.Boolean(
        load_default=False,
        metadata={"description": "Also run once after the schedule was created or its `job` was changed."},
    )
    labels = fields.Dict(
        keys=fields.String(validate=validate.Regexp(rf"{_LABEL}\Z", error=_LABEL_NAME)),
        values=fields.String(validate=validate.Length(max=255)),
        load_default=dict,
        validate=_require_few,
        metadata={
            "description": "Free texts of yours. They filter the list.",
            "example": {"team": "base"},
            "maxProperties": _MOST_LABELS,
        },
    )
    on_delete_upstream = fields.String(
        load_default="keep",
        validate=validate.OneOf(ON_DELETES),
        metadata={
            "description": "What becomes of a mirrored tag that its source has deleted. `delete` deletes it. "
            "`tombstone` deletes the tag too, and keeps its image by its digest, so that it can be brought back."
        },
    )
    delete_brake: fields.Field[Any] = fields.Nested(DeleteBrakeSchema, load_default=_BRAKE)
    gone_for = fields.Integer(
        load_default=UpstreamRules().gone_for,
        strict=True,
        validate=validate.Range(1, 1000),
        metadata={
            "description": "Complete listings in a row that must lack a tag, and at least a day, before it counts as "
            "deleted."
        },
    )
    on_move_upstream = fields.String(
        load_default="follow",
        validate=validate.OneOf(ON_MOVES),
        metadata={"description": "`report` leaves a mirrored tag alone that its source has moved, and reports it."},
    )
    job: fields.Field[Any] = fields.Nested(
        JobRequestSchema, required=True, metadata={"description": "What each run does, as `POST /v1/jobs` takes it."}
    )

    @validates_schema(skip_on_field_errors=True)
    def require_followable(self, data: dict[str, Any], **_: Any) -> None:
        """Refuse a job that cannot be repeated, or whose source cannot be followed."""
        job: JobRequest = data["job"]
        if job.plan is not None:
            raise ValidationError({"job": {"plan": ["A schedule repeats a request, and a plan is applied once."]}})
        if data["on_delete_upstream"] == "keep":
            return
        for place, image in enumerate(job.images):
            if not _lists_tags(image):
                message = (
                    f"'{image.source}' names one image, whose source is not listed. Without a list it cannot be told "
                    "whether a tag was deleted. Name it with 'tags', or set 'on_delete_upstream' to 'keep'."
                )
                where: dict[Any, Any] = {"source": [message]}
                raise ValidationError({"job": {"images": {place: where}} if len(job.images) > 1 else where})

    @post_load(pass_original=True)
    def make(self, data: dict[str, Any], original: Mapping[str, Any], **_: Any) -> ScheduleDefinition:
        upstream = UpstreamRules(
            on_delete=data.pop("on_delete_upstream"),
            on_move=data.pop("on_move_upstream"),
            gone_for=data.pop("gone_for"),
            brake=data.pop("delete_brake"),
        )
        timetable = Timetable(**{name: data.pop(name) for name in _TIMETABLE})
        return ScheduleDefinition(**{**data, "job": original["job"]}, timetable=timetable, upstream=upstream)


class _StoredDefinitionSchema(ScheduleDefinitionSchema):
    """A definition in a record. Its job was checked before it was stored, and is checked again when a run starts.

    To read a job of 10 000 images takes half a second, and most readers of a schedule do not need it. And a schedule
    whose job a newer release has written is still listed.
    """

    job: fields.Field[Any] = fields.Raw(required=True)

    def require_followable(self, data: dict[str, Any], **_: Any) -> None:
        """Check nothing."""


def definition_fields(definition: ScheduleDefinition) -> dict[str, Any]:
    """Return the values of the definition under their names in JSON. Its job is as it was written."""
    timetable, upstream = definition.timetable, definition.upstream
    return {
        "name": definition.name,
        "cron": timetable.cron,
        "every": timetable.every,
        "time_zone": timetable.time_zone,
        "jitter": timetable.jitter,
        "enabled": definition.enabled,
        "overlap": definition.overlap,
        "catch_up": definition.catch_up,
        "deadline": definition.deadline,
        "run_on_change": definition.run_on_change,
        "labels": dict(definition.labels),
        "on_delete_upstream": upstream.on_delete,
        "delete_brake": {"max_share": upstream.brake.max_share, "max_count": upstream.brake.max_count},
        "gone_for": upstream.gone_for,
        "on_move_upstream": upstream.on_move,
        "job": dict(definition.job),
    }


def dump_definition(definition: ScheduleDefinition) -> dict[str, Any]:
    """Return the definition as JSON, with all defaults."""
    dumped: dict[str, Any] = _STORED.dump(definition_fields(definition))
    return dumped


def read_definition(document: Mapping[str, Any]) -> ScheduleDefinition:
    """Read what `dump_definition` returned. Raises ValidationError."""
    definition: ScheduleDefinition = _SCHEMA.load(document)
    return definition


def read_stored_definition(document: str) -> ScheduleDefinition:
    """Read the JSON text of what `dump_definition` returned, without a look at its job.

    Raises ValidationError or ValueError.
    """
    definition: ScheduleDefinition = _STORED.loads(document)
    return definition


def read_job(definition: ScheduleDefinition) -> JobRequest:
    """Return the request of the schedule's runs. Raises ValidationError for one that this release refuses.

    A schedule that only reports moves of its source does so for all of its images.
    """
    request: JobRequest = _JOB.load(definition.job)
    if definition.upstream.on_move == "follow":
        return request
    images = [replace(image, options=replace(image.options, on_move_upstream="report")) for image in request.images]
    return replace(request, images=images)


def _lists_tags(image: ImageRequest) -> bool:
    return image.tags is not None or image.source.endswith("/*")


_SCHEMA: Final = ScheduleDefinitionSchema()
_STORED: Final = _StoredDefinitionSchema()
_JOB: Final = JobRequestSchema()
