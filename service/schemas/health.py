"""Health and version."""

from __future__ import annotations

from marshmallow import Schema, fields, validate


class LivenessSchema(Schema):
    status = fields.String(required=True, metadata={"example": "ok"})


class FindingSchema(Schema):
    status = fields.String(required=True, validate=validate.OneOf(["ok", "failed"]))
    detail = fields.String(metadata={"description": "With `?verbose`: what is wrong."})
    warnings = fields.List(fields.String(), metadata={"description": "With `?verbose`: what could go wrong."})


class ReadinessSchema(Schema):
    status = fields.String(required=True, validate=validate.OneOf(["ok", "unavailable"]))
    checks = fields.Dict(keys=fields.String(), values=fields.Nested(FindingSchema), required=True)


class ReadinessQuery(Schema):
    verbose = fields.String(
        load_default=None, metadata={"description": "Present: say what is wrong and what could go."}
    )


class VersionSchema(Schema):
    version = fields.String(required=True, metadata={"example": "0.1.0"})
    api = fields.String(required=True, metadata={"example": "v1"})
