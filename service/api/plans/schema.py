"""The JSON of plans and their images."""

from __future__ import annotations

from marshmallow import Schema, fields, validate

from mirror.records.plans import PLAN_ACTIONS, PLAN_STATES
from service.api.jobs.task_schema import WaitingForSchema
from service.http.pagination import DIGEST_EXAMPLE, PageQuery, Timestamp, page_schema

_IMAGE = "docker.io/library/alpine:3.20"
_PLAN = "plan_01JDB2V3R8Y0N5Q7T9W1X3Z5B7"
_JOB = "job_01JDB2V3R8Y0N5Q7T9W1X3Z5B7"
_BASE = "http://127.0.0.1:8080/v1"
_REQUESTS = "That applying sends to the source: for manifests, and one for each blob or part of a large blob."
_PULL_QUOTA = (
    "Manifest reads that count against the pull limit of a registry. The plan has made them, and applying it makes "
    "none of them again. 0 where the registry announces no limit."
)


class PlanTotalsSchema(Schema):
    """The sums over all images that are planned so far. Each blob counts once, however many images need it."""

    images = fields.Integer(
        required=True,
        metadata={"description": "Planned or not. A repository counts as one until it was listed.", "example": 12},
    )
    copy = fields.Integer(required=True, metadata={"example": 3})
    unchanged = fields.Integer(required=True, metadata={"example": 8})
    skip = fields.Integer(required=True, metadata={"example": 0})
    drifted = fields.Integer(required=True, metadata={"example": 1})
    failed = fields.Integer(required=True, metadata={"example": 0})
    bytes_to_copy = fields.Integer(required=True, metadata={"example": 48211034})
    bytes_held = fields.Integer(
        required=True, metadata={"description": "Of the images to copy: held already.", "example": 3408729}
    )
    requests = fields.Integer(required=True, metadata={"description": _REQUESTS, "example": 17})
    pull_quota = fields.Integer(required=True, metadata={"description": _PULL_QUOTA, "example": 21})
    exact = fields.Boolean(
        required=True, metadata={"description": "If false, bytes and requests are an upper bound.", "example": True}
    )


class PlannedImageSchema(Schema):
    """What is to be done for one image, and why."""

    source = fields.String(required=True, metadata={"example": _IMAGE})
    target = fields.String(
        required=True,
        allow_none=True,
        metadata={"description": "Null for a repository that could not be listed.", "example": _IMAGE},
    )
    action = fields.String(
        required=True,
        allow_none=True,
        validate=validate.OneOf(PLAN_ACTIONS),
        metadata={"description": "Null until it is planned.", "example": "copy"},
    )
    reason = fields.String(required=True, allow_none=True, metadata={"example": "The mirror has no such target yet."})
    code = fields.String(
        required=True,
        allow_none=True,
        metadata={"description": "The reason for programs, of an image that is not to be copied."},
    )
    chosen_by = fields.String(
        required=True,
        allow_none=True,
        metadata={"description": "The rules that chose the tag. Null for an image that the request named."},
    )
    digest = fields.String(
        required=True,
        allow_none=True,
        metadata={"description": "Of the source: what applying the plan copies.", "example": DIGEST_EXAMPLE},
    )
    result_digest = fields.String(
        required=True, allow_none=True, metadata={"description": "What the tag will show.", "example": DIGEST_EXAMPLE}
    )
    bytes_to_copy = fields.Integer(required=True, metadata={"example": 48211034})
    bytes_held = fields.Integer(required=True, metadata={"example": 3408729})
    requests = fields.Integer(required=True, metadata={"description": _REQUESTS, "example": 5})
    pull_quota = fields.Integer(required=True, metadata={"description": _PULL_QUOTA, "example": 3})


PlannedImagePageSchema = page_schema("PlannedImagePageSchema", PlannedImageSchema)


class PlannedImageQuery(PageQuery):
    action = fields.String(
        load_default=None,
        validate=validate.OneOf(PLAN_ACTIONS),
        metadata={"description": "Only images with this action. Then a page may be short, and still have a `next`."},
    )


class PlanLinksSchema(Schema):
    self = fields.String(required=True, metadata={"example": f"{_BASE}/plans/{_PLAN}"})
    images = fields.String(required=True, metadata={"example": f"{_BASE}/plans/{_PLAN}/images"})
    job = fields.String(
        required=True, metadata={"description": "The job that makes the plan.", "example": f"{_BASE}/jobs/{_JOB}"}
    )
    cancel = fields.String(metadata={"description": "POST to it; there until the plan has ended."})
    retry = fields.String(
        metadata={"description": "POST to it; there once the plan is `failed`, `partial` or `canceled`."}
    )


class PlanSummarySchema(Schema):
    """A plan in a list: without its images."""

    id = fields.String(required=True, metadata={"example": _PLAN})
    state = fields.String(required=True, validate=validate.OneOf(PLAN_STATES), metadata={"example": "ready"})
    request = fields.Dict(
        required=True,
        allow_none=True,
        metadata={"description": "What was understood, with all defaults. Null for a plan of several requests."},
    )
    totals = fields.Nested(PlanTotalsSchema, required=True)
    waiting_for = fields.Nested(
        WaitingForSchema, required=True, allow_none=True, metadata={"description": "Why nothing moves."}
    )
    created_at = Timestamp(required=True)
    expires_at = Timestamp(
        required=True, allow_none=True, metadata={"description": "A day after the plan has ended. Null until then."}
    )
    links = fields.Nested(PlanLinksSchema, required=True)


class PlanSchema(PlanSummarySchema):
    """A plan with its first 20 images."""

    images = fields.List(fields.Nested(PlannedImageSchema), required=True)


PlanPageSchema = page_schema("PlanPageSchema", PlanSummarySchema)
