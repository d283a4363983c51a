"""Jobs."""

from __future__ import annotations

from typing import get_args

from marshmallow import Schema, fields, validate

from mirror.records.job import JOB_STATES
from mirror.records.task import BlobState, TaskState
from service.schemas.fields import DIGEST_EXAMPLE, Cursor, PageQuery, Timestamp

_IMAGE = "docker.io/library/alpine:3.20"
_JOB = "job_01JDB2V3R8Y0N5Q7T9W1X3Z5B7"
_URL = f"http://127.0.0.1:8080/v1/jobs/{_JOB}"


class JobRequestSchema(Schema):
    source = fields.String(
        required=True,
        metadata={
            "description": "What to mirror, written as `docker pull` takes it.",
            "example": "docker.io/library/redis:7",
        },
    )
    target = fields.String(
        allow_none=True,
        load_default=None,
        metadata={
            "description": "Where to keep it: `repository[:tag]`. Without it: the source's canonical name; "
            "without a tag: the source's tag.",
            "example": "library/redis:7",
        },
    )


class JobQuery(PageQuery):
    state = fields.String(load_default=None, validate=validate.OneOf(JOB_STATES))
    source = fields.String(
        load_default=None,
        metadata={
            "description": "Jobs of this source, in any spelling: `redis` finds `docker.io/library/redis:latest`."
        },
    )


class ImageCountsSchema(Schema):
    total = fields.Integer(required=True, metadata={"example": 1})
    succeeded = fields.Integer(required=True, metadata={"example": 0})
    failed = fields.Integer(required=True, metadata={"example": 0})
    canceled = fields.Integer(required=True, metadata={"example": 0})
    unchanged = fields.Integer(required=True, metadata={"description": "Among the succeeded.", "example": 0})
    running = fields.Integer(required=True, metadata={"example": 1})


class ByteCountsSchema(Schema):
    total = fields.Integer(required=True, metadata={"example": 48211034})
    copied = fields.Integer(required=True, metadata={"example": 12582912})
    skipped = fields.Integer(required=True, metadata={"description": "Held already.", "example": 3408729})


class WaitingForSchema(Schema):
    reason = fields.String(required=True, metadata={"example": "rate_limited"})
    registry = fields.String(required=True, allow_none=True, metadata={"example": "docker.io"})
    until = fields.String(required=True, metadata={"example": "2026-11-23T21:40:00Z"})


class JobErrorSchema(Schema):
    code = fields.String(required=True, metadata={"example": "MANIFEST_UNKNOWN"})
    message = fields.String(required=True, metadata={"example": f"The source has no image '{_IMAGE}'"})
    retryable = fields.Boolean(required=True, metadata={"description": "Whether the same job may succeed later."})
    hint = fields.String(required=True)


class BlobSchema(Schema):
    digest = fields.String(required=True, metadata={"example": DIGEST_EXAMPLE})
    size = fields.Integer(required=True, metadata={"example": 33554432})
    copied = fields.Integer(required=True, metadata={"example": 12582912})
    state = fields.String(required=True, validate=validate.OneOf(get_args(BlobState)), metadata={"example": "copying"})
    reason = fields.String(required=True, allow_none=True, metadata={"description": "Why it was left out."})


class TaskSchema(Schema):
    """One image of the job."""

    id = fields.String(required=True, metadata={"example": "task_01JDB2V3R8Y0N5Q7T9W1X3Z5B8"})
    state = fields.String(required=True, validate=validate.OneOf(get_args(TaskState)), metadata={"example": "running"})
    attempt = fields.Integer(required=True, metadata={"example": 1})
    source = fields.String(required=True, metadata={"example": _IMAGE})
    target = fields.String(required=True, metadata={"example": _IMAGE})
    digest = fields.String(required=True, allow_none=True, metadata={"example": DIGEST_EXAMPLE})
    unchanged = fields.Boolean(required=True, metadata={"description": "The target showed this digest already."})
    superseded_by = fields.String(required=True, allow_none=True)
    waiting_for = fields.Nested(WaitingForSchema, required=True, allow_none=True)
    error = fields.Nested(JobErrorSchema, required=True, allow_none=True)
    blobs = fields.List(fields.Nested(BlobSchema), required=True)


class JobLinksSchema(Schema):
    self = fields.String(required=True, metadata={"example": _URL})
    cancel = fields.String(
        metadata={"description": "POST to it; there until the job ends.", "example": f"{_URL}/cancel"}
    )
    retry = fields.String(
        metadata={"description": "POST to it; there once the job is `failed`, `partial` or `canceled`."}
    )


class JobSummarySchema(Schema):
    """A job as it stands in a list: without its tasks."""

    id = fields.String(required=True, metadata={"example": _JOB})
    state = fields.String(required=True, validate=validate.OneOf(JOB_STATES), metadata={"example": "running"})
    attempt = fields.Integer(
        required=True, metadata={"description": "From 1; grows when a worker is lost, and with a retry."}
    )
    source = fields.String(required=True, metadata={"example": _IMAGE})
    target = fields.String(required=True, metadata={"example": _IMAGE})
    digest = fields.String(required=True, allow_none=True, metadata={"example": DIGEST_EXAMPLE})
    images = fields.Nested(ImageCountsSchema, required=True)
    bytes = fields.Nested(ByteCountsSchema, required=True)
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
    links = fields.Nested(JobLinksSchema, required=True)


class JobSchema(JobSummarySchema):
    """A job in full; at most its first 20 tasks."""

    tasks = fields.List(fields.Nested(TaskSchema), required=True)


class JobPageSchema(Schema):
    items = fields.List(fields.Nested(JobSummarySchema), required=True)
    next = Cursor(required=True, allow_none=True, metadata={"description": "`cursor` of the next page, if any."})
