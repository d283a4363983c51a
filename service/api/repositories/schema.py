"""Repositories in a list."""

from __future__ import annotations

from marshmallow import Schema, fields

from service.http.pagination import page_schema


class RepositorySchema(Schema):
    name = fields.String(required=True, metadata={"example": "docker.io/library/alpine"})
    tags = fields.Integer(required=True, metadata={"example": 3})
    bytes = fields.Integer(
        required=True, metadata={"description": "Of the distinct blobs its tags need.", "example": 48211034}
    )


RepositoryPageSchema = page_schema("RepositoryPageSchema", RepositorySchema)
