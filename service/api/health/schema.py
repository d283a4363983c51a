"""Health and version."""

from __future__ import annotations

from marshmallow import EXCLUDE, Schema, fields, validate


class LivenessSchema(Schema):
    status = fields.String(required=True, metadata={"example": "ok"})


class ProcessSchema(Schema):
    """A worker or scheduler, by its last heartbeat."""

    name = fields.String(required=True, metadata={"description": "`host:pid`.", "example": "worker-1:7"})
    state = fields.String(
        required=True,
        metadata={
            "description": "`idle` or `copying`, of a scheduler `leader` or `standby`: what it did at that time.",
            "example": "idle",
        },
    )
    alive = fields.Boolean(required=True)
    age_seconds = fields.Float(required=True, metadata={"description": "Since its heartbeat.", "example": 2.4})


class FindingSchema(Schema):
    status = fields.String(required=True, validate=validate.OneOf(["ok", "degraded", "failed"]))
    detail = fields.String(metadata={"description": "With `?verbose`: what is wrong."})
    warnings = fields.List(fields.String(), metadata={"description": "With `?verbose`: what could go wrong."})
    free_bytes = fields.Integer(
        metadata={"description": "With `?verbose`, of an embedded server: bytes free on its disk."}
    )
    processes = fields.List(
        fields.Nested(ProcessSchema),
        metadata={"description": "With `?verbose`: the workers or schedulers of the last ten minutes."},
    )
    schedules = fields.Dict(
        keys=fields.String(),
        values=fields.Integer(),
        metadata={
            "description": "With `?verbose`: the schedules, counted by the state of their `health`.",
            "example": {"disabled": 1, "new": 0, "healthy": 12, "failing": 1, "late": 0},
        },
    )


class ReadinessSchema(Schema):
    status = fields.String(
        required=True,
        validate=validate.OneOf(["ok", "degraded", "unavailable"]),
        metadata={"description": "`degraded`: pulls work, and no worker or no scheduler is alive."},
    )
    checks = fields.Dict(keys=fields.String(), values=fields.Nested(FindingSchema), required=True)


class ReadinessQuery(Schema):
    class Meta:
        unknown = EXCLUDE  # probes add what they like

    verbose = fields.String(
        load_default=None, metadata={"description": "Present: say what is wrong and what could go."}
    )


class VersionSchema(Schema):
    version = fields.String(required=True, metadata={"example": "0.1.0"})
    api = fields.String(required=True, metadata={"example": "v1"})
