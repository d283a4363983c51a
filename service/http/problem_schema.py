"""Problem details, RFC 9457."""

from __future__ import annotations

from marshmallow import Schema, fields


class FieldProblemSchema(Schema):
    detail = fields.String(required=True, metadata={"example": "Missing data for required field."})
    pointer = fields.String(metadata={"description": "JSON Pointer into the body.", "example": "/source"})
    parameter = fields.String(metadata={"description": "Name of the query parameter."})


class ProblemSchema(Schema):
    type = fields.String(required=True, metadata={"example": "/docs/errors#NAME_INVALID"})
    title = fields.String(required=True, metadata={"example": "Name invalid"})
    status = fields.Integer(required=True, metadata={"example": 422})
    detail = fields.String(
        required=True,
        metadata={"example": "'Redis:7' is not a valid image reference: the repository must be lower case"},
    )
    instance = fields.String(required=True, metadata={"description": "Path of the request.", "example": "/v1/jobs"})
    code = fields.String(
        required=True, metadata={"description": "Stable: scripts may rely on it.", "example": "NAME_INVALID"}
    )
    hint = fields.String(
        required=True, metadata={"description": "What to do.", "example": "Write it as 'docker pull' takes it."}
    )
    request_id = fields.String(
        required=True, metadata={"description": "Stands on every log line.", "example": "b7d1f0c2a4e86395"}
    )
    errors = fields.List(fields.Nested(FieldProblemSchema), metadata={"description": "Every field that is wrong."})
