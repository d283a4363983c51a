"""What a sync file changes, and what became of the last one."""

from __future__ import annotations

from marshmallow import Schema, fields

from mirror.records.sync_file_status import SyncFileStatusSchema


class SyncFileQuery(Schema):
    dry_run = fields.Boolean(
        load_default=False, metadata={"description": "Only return what would change. This works at any time."}
    )


class ScheduleUpdateSchema(Schema):
    name = fields.String(required=True, metadata={"example": "nightly-alpine"})
    fields_ = fields.List(
        fields.String(),
        required=True,
        data_key="fields",
        attribute="fields",
        metadata={"description": "The fields that differ.", "example": ["cron"]},
    )


class SyncFileChangesSchema(Schema):
    dry_run = fields.Boolean(required=True)
    create = fields.List(fields.String(), required=True, metadata={"description": "Names of schedules."})
    update = fields.List(fields.Nested(ScheduleUpdateSchema), required=True)
    delete = fields.List(
        fields.String(), required=True, metadata={"description": "Schedules that a file has made, and this one lacks."}
    )
    unchanged = fields.Integer(required=True)
    conflicts = fields.List(
        fields.String(),
        required=True,
        metadata={"description": "Syncs that are left out, because a schedule of the API has their name."},
    )


class SyncFileSchema(Schema):
    watched = fields.String(
        required=True,
        allow_none=True,
        metadata={
            "description": "The base name of the file that the schedulers follow (`MIRROR_SYNC_FILE`).",
            "example": "mirror.yaml",
        },
    )
    last = fields.Nested(
        SyncFileStatusSchema, required=True, allow_none=True, metadata={"description": "What became of the last file."}
    )
