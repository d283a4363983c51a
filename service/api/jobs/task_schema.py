"""The JSON of the tasks of a job, of their blobs and of what an expansion has chosen, as responses have it."""

from __future__ import annotations

from typing import get_args

from marshmallow import Schema, fields, validate

from mirror.records.spec import TASK_KINDS
from mirror.records.states import TaskState
from mirror.records.task import SHOWN_BLOBS, BlobState
from service.http.pagination import DIGEST_EXAMPLE, NO_CURSOR, Cursor, PageQuery, page_schema

IMAGE_EXAMPLE = "docker.io/library/alpine:3.20"
JOB_EXAMPLE = "job_01JDB2V3R8Y0N5Q7T9W1X3Z5B7"
_TASK = "task_01JDB2V3R8Y0N5Q7T9W1X3Z5B8"
URL_EXAMPLE = f"http://127.0.0.1:8080/v1/jobs/{JOB_EXAMPLE}"


DIGEST = {
    "description": "What the target shows. While the image is copied: what the source has.",
    "example": DIGEST_EXAMPLE,
}
SOURCE_DIGEST = {"description": "What the source has.", "example": DIGEST_EXAMPLE}
DIGEST_PRESERVED = {
    "description": "Whether the target shows the digest of the source. False after the platforms modes `rewrite` and "
    "`single`, if they changed anything. Null until the image is there.",
    "example": True,
}


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
    message = fields.String(required=True, metadata={"example": f"The source has no image '{IMAGE_EXAMPLE}'"})
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


BlobPageSchema = page_schema("BlobPageSchema", BlobSchema)


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


ChoicePageSchema = page_schema("ChoicePageSchema", ChoiceSchema)


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
        metadata={"description": "All of its blobs, in pages.", "example": f"{URL_EXAMPLE}/tasks/{_TASK}/blobs"},
    )
    tags = fields.String(metadata={"description": "Each listed tag with the rule that dropped it, in pages."})


class SkippedSchema(Schema):
    reason = fields.String(required=True, metadata={"description": "A stable word.", "example": "exists"})
    message = fields.String(
        required=True, metadata={"example": "The target 'team/redis:7' exists already and overwrite is 'never'"}
    )
    digest = fields.String(
        required=True,
        allow_none=True,
        metadata={"description": "What a tag keeps that its source has moved (`moved`); null for others."},
    )
    source_digest = fields.String(
        required=True,
        allow_none=True,
        metadata={"description": "What the source of such a tag has now; null for others."},
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
    source = fields.String(required=True, allow_none=True, metadata={"example": IMAGE_EXAMPLE})
    target = fields.String(required=True, allow_none=True, metadata={"example": IMAGE_EXAMPLE})
    digest = fields.String(required=True, allow_none=True, metadata=DIGEST)
    source_digest = fields.String(required=True, allow_none=True, metadata=SOURCE_DIGEST)
    digest_preserved = fields.Boolean(required=True, allow_none=True, metadata=DIGEST_PRESERVED)
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


TaskPageSchema = page_schema("TaskPageSchema", TaskSchema)
