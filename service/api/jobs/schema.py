"""The JSON of jobs, their tasks and blobs, as responses have it. request_schema.py has that of a request."""

from __future__ import annotations

from typing import Any, get_args

from marshmallow import Schema, ValidationError, fields, validate, validates_schema

from mirror.records.job import ON_ERRORS, PRIORITIES, JobKind
from mirror.records.spec import TASK_KINDS
from mirror.records.states import JOB_STATES, TaskState
from mirror.records.task import SHOWN_BLOBS, BlobState
from service.http.pagination import DIGEST_EXAMPLE, NO_CURSOR, Cursor, PageQuery, Timestamp

_IMAGE = "docker.io/library/alpine:3.20"
_JOB = "job_01JDB2V3R8Y0N5Q7T9W1X3Z5B7"
_TASK = "task_01JDB2V3R8Y0N5Q7T9W1X3Z5B8"
_URL = f"http://127.0.0.1:8080/v1/jobs/{_JOB}"


_DIGEST = {
    "description": "What the target shows. While the image is copied: what the source has.",
    "example": DIGEST_EXAMPLE,
}
_SOURCE_DIGEST = {"description": "What the source has.", "example": DIGEST_EXAMPLE}
_DIGEST_PRESERVED = {
    "description": "Whether the target shows the digest of the source. False after the platforms modes `rewrite` and "
    "`single`, if they changed anything. Null until the image is there.",
    "example": True,
}


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


class ForeignLayersSchema(Schema):
    """Layers of a foreign media type, such as the base layers of Windows."""

    copied = fields.Integer(
        required=True, metadata={"description": "Held by the mirror: copied now, or held already.", "example": 0}
    )
    left_out = fields.Integer(
        required=True,
        metadata={
            "description": "Not held, because the source does not serve them. Nodes get them from their publisher.",
            "example": 1,
        },
    )


class ReferrersSchema(Schema):
    """Signatures, SBOMs and other manifests that refer to the image."""

    copied = fields.Integer(required=True, metadata={"example": 2})
    unchanged = fields.Integer(required=True, metadata={"description": "Held already.", "example": 0})
    left_out = fields.Integer(
        required=True,
        metadata={"description": "Not held: of a type that cannot be mirrored, or gone at the source.", "example": 0},
    )


class SignatureSchema(Schema):
    """The signature that was found and verified."""

    signer = fields.String(
        required=True,
        metadata={
            "description": "The key, or the identity and its issuer.",
            "example": "key sha256:3e1f0a54c1f6ddd0d2d5c6f0e4d1cd5c1c9c3a3f8a0d1e4b6a4a5b7d0e6f9c12",
        },
    )
    form = fields.String(required=True, metadata={"description": "How it is stored.", "example": "bundle"})
    signature = fields.String(
        required=True, metadata={"description": "The manifest with the signature.", "example": DIGEST_EXAMPLE}
    )
    policy = fields.String(required=True, metadata={"description": "A short hash of the policy that was checked."})
    verified_at = fields.String(required=True, metadata={"example": "2026-11-23T21:40:00.000Z"})


class WarningSchema(Schema):
    """What the caller should know of a request that is done as it was asked for."""

    code = fields.String(required=True, metadata={"description": "A stable word.", "example": "SIGNATURES_LOST"})
    message = fields.String(required=True)


class WaitingForSchema(Schema):
    reason = fields.String(required=True, metadata={"example": "rate_limited"})
    registry = fields.String(required=True, allow_none=True, metadata={"example": "docker.io"})
    until = fields.String(required=True, allow_none=True, metadata={"example": "2026-11-23T21:40:00Z"})
    message = fields.String(
        required=True,
        allow_none=True,
        metadata={
            "description": "What happened last.",
            "example": "The registry docker.io answered 429 and asks us to wait 60 s",
        },
    )


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
    reason = fields.String(
        required=True,
        allow_none=True,
        metadata={"description": "Why it was left out, has failed or has to wait; null for others."},
    )
    code = fields.String(
        required=True,
        allow_none=True,
        metadata={"description": "The code of the error that was the cause.", "example": "BLOB_UNKNOWN"},
    )


class BlobCountsSchema(Schema):
    """How many blobs of the image are in each state."""

    total = fields.Integer(required=True, metadata={"example": 24})
    waiting = fields.Integer(required=True, metadata={"example": 3})
    copying = fields.Integer(required=True, metadata={"example": 1})
    verifying = fields.Integer(required=True, metadata={"example": 0})
    copied = fields.Integer(required=True, metadata={"example": 8})
    exists = fields.Integer(required=True, metadata={"description": "Held already.", "example": 12})
    skipped = fields.Integer(required=True, metadata={"description": "Left out.", "example": 0})
    failed = fields.Integer(required=True, metadata={"example": 0})


class BlobPageSchema(Schema):
    items = fields.List(fields.Nested(BlobSchema), required=True)
    next = Cursor(required=True, allow_none=True, metadata={"description": "`cursor` of the next page, if any."})


class BlobQuery(PageQuery):
    cursor = Cursor(
        load_default=None,
        validate=validate.Regexp(r"(0|[1-9][0-9]{0,3})\Z", error=NO_CURSOR),
        metadata={"description": "`next` of the page before; leave it out for the first page."},
    )


class ChoiceSchema(Schema):
    name = fields.String(required=True, metadata={"description": "The tag, or the repository.", "example": "3.20-rc1"})
    selected = fields.Boolean(required=True, metadata={"example": False})
    rule = fields.String(
        required=True,
        allow_none=True,
        metadata={"description": "The rule that dropped it; null if it was selected.", "example": "deny"},
    )
    detail = fields.String(
        required=True, allow_none=True, metadata={"description": "Why.", "example": "it matches glob *-rc*"}
    )


class ChoicePageSchema(Schema):
    items = fields.List(fields.Nested(ChoiceSchema), required=True)
    next = Cursor(required=True, allow_none=True, metadata={"description": "`cursor` of the next page, if any."})


class ChoiceQuery(PageQuery):
    selected = fields.Boolean(
        load_default=None, metadata={"description": "Only those that were selected, or only the others."}
    )
    cursor = Cursor(
        load_default=None,
        validate=validate.Regexp(r"(0|[1-9][0-9]{0,6})\Z", error=NO_CURSOR),
        metadata={"description": "`next` of the page before; leave it out for the first page."},
    )


class SelectionSchema(Schema):
    """What an expansion has found at its source."""

    listed = fields.Integer(required=True, metadata={"description": "Tags or repositories.", "example": 40})
    selected = fields.Integer(required=True, metadata={"example": 12})
    dropped = fields.Dict(
        keys=fields.String(),
        values=fields.Integer(),
        required=True,
        metadata={"description": "How many tags each rule dropped.", "example": {"semver": 26, "deny": 2}},
    )
    order = fields.String(
        required=True, allow_none=True, metadata={"description": "The order of `latest`.", "example": "semver"}
    )
    added = fields.Integer(required=True, metadata={"description": "Tasks added to the job so far.", "example": 3})
    unchanged = fields.Integer(
        required=True, metadata={"description": "Images found unchanged so far. They have no task.", "example": 9}
    )
    skipped = fields.Integer(
        required=True,
        metadata={"description": "Images whose targets are left alone. They have no task.", "example": 0},
    )


class TaskLinksSchema(Schema):
    blobs = fields.String(
        required=True,
        metadata={"description": "All of its blobs, in pages.", "example": f"{_URL}/tasks/{_TASK}/blobs"},
    )
    tags = fields.String(metadata={"description": "Each listed tag with the rule that dropped it, in pages."})


class SkippedSchema(Schema):
    reason = fields.String(required=True, metadata={"description": "A stable word.", "example": "exists"})
    message = fields.String(
        required=True, metadata={"example": "The target 'team/redis:7' exists already and overwrite is 'never'"}
    )


class TaskSchema(Schema):
    """One image of the job, or an expansion of a repository or a wildcard, or the release of an atomic job."""

    id = fields.String(required=True, metadata={"example": _TASK})
    kind = fields.String(required=True, validate=validate.OneOf(TASK_KINDS), metadata={"example": "copy"})
    request = fields.Dict(
        required=True, metadata={"description": "What was understood of the request, with all defaults."}
    )
    state = fields.String(required=True, validate=validate.OneOf(get_args(TaskState)), metadata={"example": "running"})
    attempt = fields.Integer(required=True, metadata={"example": 1})
    source = fields.String(required=True, allow_none=True, metadata={"example": _IMAGE})
    target = fields.String(required=True, allow_none=True, metadata={"example": _IMAGE})
    digest = fields.String(required=True, allow_none=True, metadata=_DIGEST)
    source_digest = fields.String(required=True, allow_none=True, metadata=_SOURCE_DIGEST)
    digest_preserved = fields.Boolean(required=True, allow_none=True, metadata=_DIGEST_PRESERVED)
    unchanged = fields.Boolean(required=True, metadata={"description": "The target showed this digest already."})
    skipped = fields.Nested(
        SkippedSchema,
        required=True,
        allow_none=True,
        metadata={"description": "Why the target was left alone on purpose; null for others. The task succeeded."},
    )
    superseded_by = fields.String(required=True, allow_none=True)
    waiting_for = fields.Nested(WaitingForSchema, required=True, allow_none=True)
    error = fields.Nested(JobErrorSchema, required=True, allow_none=True)
    blobs = fields.List(
        fields.Nested(BlobSchema),
        required=True,
        metadata={"description": f"At most {SHOWN_BLOBS}. Of more, those that failed or are under way come first."},
    )
    blob_counts = fields.Nested(
        BlobCountsSchema,
        required=True,
        allow_none=True,
        metadata={"description": "Of all blobs; null until they are known."},
    )
    foreign_layers = fields.Nested(
        ForeignLayersSchema,
        required=True,
        allow_none=True,
        metadata={"description": "Null until they are known, and for an unchanged image, which is not read."},
    )
    referrers = fields.Nested(
        ReferrersSchema,
        required=True,
        allow_none=True,
        metadata={"description": "Null until they are copied, and where none are wanted."},
    )
    signature = fields.Nested(
        SignatureSchema,
        required=True,
        allow_none=True,
        metadata={"description": "Null where no signature is required, and until one is verified."},
    )
    warnings = fields.List(fields.Nested(WarningSchema), required=True)
    selection = fields.Nested(
        SelectionSchema,
        required=True,
        allow_none=True,
        metadata={"description": "Of a task that expands a source, once that was listed. Null for others."},
    )
    links = fields.Nested(TaskLinksSchema, required=True)


class TaskPageSchema(Schema):
    items = fields.List(fields.Nested(TaskSchema), required=True)
    next = Cursor(required=True, allow_none=True, metadata={"description": "`cursor` of the next page, if any."})


class JobLinksSchema(Schema):
    self = fields.String(required=True, metadata={"example": _URL})
    tasks = fields.String(required=True, metadata={"description": "All of its tasks.", "example": f"{_URL}/tasks"})
    cancel = fields.String(
        metadata={"description": "POST to it; there until the job ends.", "example": f"{_URL}/cancel"}
    )
    retry = fields.String(
        metadata={"description": "POST to it; there once the job is `failed`, `partial` or `canceled`."}
    )
    plan = fields.String(metadata={"description": "The plan that a job of the kind `plan` makes."})


class JobSummarySchema(Schema):
    """A job in a list: without its tasks."""

    id = fields.String(required=True, metadata={"example": _JOB})
    state = fields.String(required=True, validate=validate.OneOf(JOB_STATES), metadata={"example": "running"})
    attempt = fields.Integer(
        required=True, metadata={"description": "From 1; grows when a worker is lost, and with a retry."}
    )
    source = fields.String(
        required=True,
        allow_none=True,
        metadata={"description": "Null for a job of several images: its tasks have theirs.", "example": _IMAGE},
    )
    target = fields.String(required=True, allow_none=True, metadata={"example": _IMAGE})
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
    digest = fields.String(required=True, allow_none=True, metadata=_DIGEST)
    source_digest = fields.String(required=True, allow_none=True, metadata=_SOURCE_DIGEST)
    digest_preserved = fields.Boolean(required=True, allow_none=True, metadata=_DIGEST_PRESERVED)
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
    links = fields.Nested(JobLinksSchema, required=True)


class JobSchema(JobSummarySchema):
    """A job with its first 20 tasks."""

    tasks = fields.List(fields.Nested(TaskSchema), required=True)


class JobPageSchema(Schema):
    items = fields.List(fields.Nested(JobSummarySchema), required=True)
    next = Cursor(required=True, allow_none=True, metadata={"description": "`cursor` of the next page, if any."})
