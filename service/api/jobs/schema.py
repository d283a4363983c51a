"""The JSON of jobs, as responses have it. Tasks are in task_schema.py, and requests in `mirror.records.job_request`."""

from __future__ import annotations

from typing import Any, get_args

from marshmallow import Schema, ValidationError, fields, validate, validates_schema

from mirror.records.job import ON_ERRORS, PRIORITIES, JobKind
from mirror.records.run import RUN_REASONS
from mirror.records.states import JOB_STATES
from service.api.jobs.task_schema import (
    DIGEST,
    DIGEST_PRESERVED,
    IMAGE_EXAMPLE,
    JOB_EXAMPLE,
    SOURCE_DIGEST,
    URL_EXAMPLE,
    ForeignLayersSchema,
    JobErrorSchema,
    ReferrersSchema,
    TaskSchema,
    WaitingForSchema,
    WarningSchema,
)
from service.http.pagination import PageQuery, Timestamp, page_schema


class JobPostQuery(Schema):
    dry_run = fields.Boolean(
        load_default=False, metadata={"description": "Make a plan: say what would be done, and do nothing."}
    )


class JobQuery(PageQuery):
    state = fields.String(load_default=None, validate=validate.OneOf(JOB_STATES))
    source = fields.String(
        load_default=None,
        metadata={
            "description": "Jobs of this source, in any spelling: `redis` finds `docker.io/library/redis:latest`."
        },
    )
    repository = fields.String(
        load_default=None,
        metadata={"description": "Jobs that choose tags of this repository, or of a wildcard: `bitnami/*`."},
    )

    @validates_schema
    def require_one_filter(self, data: dict[str, Any], **_: Any) -> None:
        if data["source"] is not None and data["repository"] is not None:
            raise ValidationError({"repository": ["Not beside 'source'."]})


class ImageCountsSchema(Schema):
    total = fields.Integer(required=True, metadata={"example": 1})
    succeeded = fields.Integer(required=True, metadata={"example": 0})
    failed = fields.Integer(required=True, metadata={"example": 0})
    canceled = fields.Integer(required=True, metadata={"example": 0})
    unchanged = fields.Integer(required=True, metadata={"description": "Among the succeeded.", "example": 0})
    skipped = fields.Integer(
        required=True,
        metadata={"description": "Among the succeeded: their targets were left alone on purpose.", "example": 0},
    )
    running = fields.Integer(required=True, metadata={"example": 1})


class ByteCountsSchema(Schema):
    total = fields.Integer(required=True, metadata={"example": 48211034})
    copied = fields.Integer(required=True, metadata={"example": 12582912})
    skipped = fields.Integer(required=True, metadata={"description": "Held already.", "example": 3408729})


class JobLinksSchema(Schema):
    self = fields.String(required=True, metadata={"example": URL_EXAMPLE})
    tasks = fields.String(
        required=True, metadata={"description": "All of its tasks.", "example": f"{URL_EXAMPLE}/tasks"}
    )
    cancel = fields.String(
        metadata={"description": "POST to it; there until the job ends.", "example": f"{URL_EXAMPLE}/cancel"}
    )
    retry = fields.String(
        metadata={"description": "POST to it; there once the job is `failed`, `partial` or `canceled`."}
    )
    plan = fields.String(metadata={"description": "The plan that a job of the kind `plan` makes."})
    schedule = fields.String(metadata={"description": "The schedule that has started it, if one has."})
    run = fields.String(metadata={"description": "The run of that schedule."})


class RunOfJobSchema(Schema):
    """The run of a schedule that has started the job."""

    run = fields.String(required=True, metadata={"example": "run_01JDB2V3R8Y0N5Q7T9W1X3Z5B7"})
    schedule = fields.String(required=True, metadata={"example": "schedule_01JDB2V3R8Y0N5Q7T9W1X3Z5B6"})
    reason = fields.String(required=True, validate=validate.OneOf(RUN_REASONS), metadata={"example": "slot"})
    slot = Timestamp(
        required=True, allow_none=True, metadata={"description": "The time of the timetable. Null for other reasons."}
    )


class JobSummarySchema(Schema):
    """A job in a list: without its tasks."""

    id = fields.String(required=True, metadata={"example": JOB_EXAMPLE})
    state = fields.String(required=True, validate=validate.OneOf(JOB_STATES), metadata={"example": "running"})
    attempt = fields.Integer(
        required=True, metadata={"description": "From 1; grows when a worker is lost, and with a retry."}
    )
    source = fields.String(
        required=True,
        allow_none=True,
        metadata={"description": "Null for a job of several images: its tasks have theirs.", "example": IMAGE_EXAMPLE},
    )
    target = fields.String(required=True, allow_none=True, metadata={"example": IMAGE_EXAMPLE})
    kind = fields.String(required=True, validate=validate.OneOf(get_args(JobKind)), metadata={"example": "mirror"})
    priority = fields.String(required=True, validate=validate.OneOf(PRIORITIES), metadata={"example": "normal"})
    on_error = fields.String(required=True, validate=validate.OneOf(ON_ERRORS), metadata={"example": "continue"})
    atomic = fields.Boolean(required=True, metadata={"example": False})
    request = fields.Dict(
        required=True,
        allow_none=True,
        metadata={"description": "What was understood, with all defaults. Null for several: their tasks have it."},
    )
    listed = fields.Integer(required=True, metadata={"description": "Tags that its expansions have listed."})
    selected = fields.Integer(required=True, metadata={"description": "Tags that they have chosen."})
    release_window = fields.Integer(
        required=True,
        allow_none=True,
        metadata={"description": "Milliseconds in which the tags of an atomic job moved."},
    )
    digest = fields.String(required=True, allow_none=True, metadata=DIGEST)
    source_digest = fields.String(required=True, allow_none=True, metadata=SOURCE_DIGEST)
    digest_preserved = fields.Boolean(required=True, allow_none=True, metadata=DIGEST_PRESERVED)
    images = fields.Nested(ImageCountsSchema, required=True)
    bytes = fields.Nested(ByteCountsSchema, required=True)
    foreign_layers = fields.Nested(
        ForeignLayersSchema,
        required=True,
        metadata={"description": "Of all images that this job has read. An unchanged image is not read."},
    )
    referrers = fields.Nested(
        ReferrersSchema, required=True, metadata={"description": "Of all images that have a task of their own."}
    )
    warnings = fields.List(fields.Nested(WarningSchema), required=True)
    waiting_for = fields.Nested(
        WaitingForSchema, required=True, allow_none=True, metadata={"description": "Why nothing moves."}
    )
    error = fields.Nested(JobErrorSchema, required=True, allow_none=True)
    superseded_by = fields.String(
        required=True,
        allow_none=True,
        metadata={"description": "What changed the target later and was published earlier: this job left it alone."},
    )
    cancel_requested_at = Timestamp(
        required=True, allow_none=True, metadata={"description": "Since when no more of its images are begun."}
    )
    created_at = Timestamp(required=True)
    started_at = Timestamp(required=True, allow_none=True)
    finished_at = Timestamp(required=True, allow_none=True)
    run = fields.Nested(
        RunOfJobSchema, required=True, allow_none=True, metadata={"description": "Null if no schedule has started it."}
    )
    links = fields.Nested(JobLinksSchema, required=True)


class JobSchema(JobSummarySchema):
    """A job with its first 20 tasks."""

    tasks = fields.List(fields.Nested(TaskSchema), required=True)


JobPageSchema = page_schema("JobPageSchema", JobSummarySchema)
