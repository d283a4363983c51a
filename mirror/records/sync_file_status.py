"""What became of the last sync file. It has no secrets: anyone with the token may read it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal, get_args

from marshmallow import ValidationError, fields, post_load, validate

from mirror.background import record_fault
from mirror.errors import FileProblem
from mirror.records.fields import RecordSchema, timestamp
from mirror.redis import keys
from mirror.redis.client import Redis

State = Literal["ok", "broken", "missing"]
MOST_CONFLICTS: Final = 100


@dataclass(frozen=True, slots=True)
class LastChange:
    """The last change that a file has made: which version of it, when, and to how many schedules."""

    sha256: str
    at: datetime
    created: int = 0
    updated: int = 0
    deleted: int = 0
    unchanged: int = 0


@dataclass(frozen=True, slots=True)
class SyncFileStatus:
    """The last look at a sync file, and the last change that one has made.

    *file* is the base name of the file that the schedulers follow. It is None for one that came in a request. A file
    that is broken or missing leaves *last_change* as it is.
    """

    state: State
    checked_at: datetime
    file: str | None = None
    sha256: str | None = None
    problems: tuple[FileProblem, ...] = ()
    conflicts: tuple[str, ...] = ()
    last_change: LastChange | None = None


class _ProblemSchema(RecordSchema):
    line = fields.Integer(required=True)
    column = fields.Integer(required=True)
    detail = fields.String(required=True, metadata={"example": "The key 'name' is missing."})
    pointer = fields.String(required=True, metadata={"description": "JSON Pointer.", "example": "/syncs/0/name"})

    @post_load
    def make(self, data: dict[str, Any], **_: Any) -> FileProblem:
        return FileProblem(**data)


class _Time(fields.AwareDateTime):
    """A time as the API shows all times: in UTC, with milliseconds and a ``Z``."""

    def _serialize(self, value: datetime | None, *_: Any, **__: Any) -> str | None:
        return None if value is None else timestamp(value)


class _LastChangeSchema(RecordSchema):
    sha256 = fields.String(required=True, metadata={"description": "Of the version that made it."})
    at = _Time(required=True, format="iso")
    created = fields.Integer(required=True)
    updated = fields.Integer(required=True)
    deleted = fields.Integer(required=True)
    unchanged = fields.Integer(required=True)

    @post_load
    def make(self, data: dict[str, Any], **_: Any) -> LastChange:
        return LastChange(**data)


class SyncFileStatusSchema(RecordSchema):
    """The JSON of a `SyncFileStatus`, in Redis and in responses."""

    state = fields.String(
        required=True,
        validate=validate.OneOf(get_args(State)),
        metadata={"description": "A `broken` or `missing` file has changed nothing."},
    )
    checked_at = _Time(required=True, format="iso", metadata={"description": "Of the last look."})
    file = fields.String(
        load_default=None,
        allow_none=True,
        metadata={
            "description": "The base name of the file that `MIRROR_SYNC_FILE` names. Null for one that was sent as a "
            "request.",
            "example": "mirror.yaml",
        },
    )
    sha256 = fields.String(
        load_default=None, allow_none=True, metadata={"description": "Of the bytes that were last looked at."}
    )
    problems = fields.List(fields.Nested(_ProblemSchema), load_default=list)
    conflicts = fields.List(
        fields.String(),
        load_default=list,
        metadata={"description": f"Names that schedules of the API have, at most {MOST_CONFLICTS}."},
    )
    last_change = fields.Nested(_LastChangeSchema, load_default=None, allow_none=True)

    @post_load
    def make(self, data: dict[str, Any], **_: Any) -> SyncFileStatus:
        lists = {name: tuple(data[name]) for name in ("problems", "conflicts")}
        return SyncFileStatus(**{**data, **lists})


class SyncFileStatusStore:
    """The status in Redis. Every method raises RedisUnavailable."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    def read(self) -> SyncFileStatus | None:
        """Return the last status. None before the first one, and for one that this release cannot read."""
        text = self._redis.call("GET", keys.SYNC_FILE)
        if not text:
            return None
        try:
            status: SyncFileStatus = _SCHEMA.loads(text)
        except (ValidationError, ValueError) as error:
            record_fault("reading the status of the sync file", error)
            return None
        return status

    def write(self, status: SyncFileStatus) -> None:
        self._redis.call("SET", keys.SYNC_FILE, _SCHEMA.dumps(status))


_SCHEMA: Final = SyncFileStatusSchema()
