"""A task: one image of a job, for one worker at a time."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Final, Literal, Self, get_args

from marshmallow import fields, post_load

from mirror.errors import InvalidInput, MirrorError
from mirror.oci.local_image import LocalImage
from mirror.oci.reference import Reference
from mirror.records.fields import Count, Flag, Json, Moment, RecordSchema, Text, record_fields
from mirror.records.states import TaskState

TaskKind = Literal["copy"]
BlobState = Literal["waiting", "copying", "verifying", "copied", "exists", "skipped", "failed"]
BLOB_STATES: Final[tuple[BlobState, ...]] = get_args(BlobState)
SPEC_VERSION: Final = 1
KEPT_BLOBS: Final = 1_000
"""Blobs of one task that Redis keeps: the first of its plan. An image may have a hundred thousand."""
SHOWN_FIELD: Final = "shown"
"""The field of the blobs' hash with the list of blobs to show, of an image that has too many."""
SHOWN_BLOBS: Final = 100
"""Blobs of one task that are read with it. All are read in pages."""


@dataclass(frozen=True, slots=True)
class TaskSpec:
    """What a task has to do: copy the image *source* to *target*.

    It is stored as one JSON document with a version. A reader knows this version and the records before it, which had
    the names in fields of the hash.
    """

    source: Reference
    target: LocalImage
    kind: TaskKind = "copy"

    def to_json(self) -> str:
        document = {"version": SPEC_VERSION, "kind": self.kind, "source": str(self.source), "target": str(self.target)}
        return json.dumps(document, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Raises ValueError for another version or kind, and for malformed names."""
        document = json.loads(text)
        if not isinstance(document, dict) or document.get("version") != SPEC_VERSION:
            raise ValueError(f"the spec of a task is not of version {SPEC_VERSION}")
        if document.get("kind") not in get_args(TaskKind):
            raise ValueError("the spec of a task is of an unknown kind")
        return cls.parse(str(document.get("source")), str(document.get("target")))

    @classmethod
    def parse(cls, source: str, target: str) -> Self:
        """Parse the names of a record. Raises ValueError."""
        try:
            return cls(Reference.parse(source), LocalImage.parse(target))
        except InvalidInput as error:
            raise ValueError(f"the spec of a task has a malformed name: {error.message}") from error


@dataclass(frozen=True, slots=True)
class ErrorReport:
    """A `MirrorError` as a record stores it."""

    code: str
    message: str
    retryable: bool
    hint: str

    @classmethod
    def of(cls, error: MirrorError) -> Self:
        return cls(error.code, error.message, error.retryable, error.hint)

    def fields(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class WaitingFor:
    """Why nothing moves.

    ``reason`` is a word such as ``rate_limited``, and ``registry`` the one that is the cause. ``until`` is ISO 8601, or
    None if that is not known. ``message`` says what happened last, for people.
    """

    reason: str
    until: str | None
    registry: str | None = None
    message: str | None = None

    def fields(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class BlobReport:
    """The state of one blob. ``size`` and ``copied`` are in bytes.

    ``reason`` says why it was left out, has failed or has to wait. ``code`` is the code of the error that caused it.
    """

    digest: str
    size: int
    state: BlobState
    copied: int = 0
    reason: str | None = None
    code: str | None = None

    def fields(self) -> dict[str, Any]:
        return asdict(self)

    def to_json(self) -> str:
        """Return it as it is stored, without fields that are empty."""
        return json.dumps({name: value for name, value in self.fields().items() if value or name == "size"})

    @classmethod
    def from_json(cls, text: str) -> Self:
        blob: Self = _BLOB_SCHEMA.load(json.loads(text))
        return blob


@dataclass(frozen=True, slots=True)
class ForeignLayerCounts:
    """Foreign layers of an image: those that the mirror holds, copied now or before, and those that are left out."""

    copied: int = 0
    left_out: int = 0


@dataclass(frozen=True, slots=True)
class Task:
    """A task as it is stored in Redis.

    ``fence`` grows with every claim, so that a worker that lost its claim can write nothing. ``losses`` counts claims
    in a row that expired without a checkpoint. ``attempt`` is what the user sees, from 1. ``blob_counts`` says how many
    blobs are in which state, and is None until they are known. So are ``foreign_copied`` and ``foreign_left_out``.
    """

    id: str
    job: str
    spec: TaskSpec
    state: TaskState
    created_at: datetime
    fence: int = 0
    losses: int = 0
    attempt: int = 1
    digest: str | None = None
    unchanged: bool = False
    superseded_by: str | None = None
    waiting_for: WaitingFor | None = None
    error: ErrorReport | None = None
    bytes_total: int = 0
    bytes_copied: int = 0
    bytes_skipped: int = 0
    foreign_copied: int | None = None
    foreign_left_out: int | None = None
    blob_counts: Mapping[BlobState, int] | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None

    @classmethod
    def from_record(cls, record: Mapping[str, str]) -> Self:
        """Read a task's hash. Raises ValueError or ValidationError if it cannot be read."""
        task: Self = _SCHEMA.load(record)
        return task

    @property
    def foreign_layers(self) -> ForeignLayerCounts | None:
        """The foreign layers of the image. None until they are known, and in records of earlier releases."""
        if self.foreign_copied is None or self.foreign_left_out is None:
            return None
        return ForeignLayerCounts(self.foreign_copied, self.foreign_left_out)

    def to_record(self) -> dict[str, str]:
        """Return the fields of the hash.

        Fields that are empty or 0 are left out: a reader has the same defaults.
        """
        return {name: text for name, text in record_fields(_SCHEMA.dump(self)).items() if text not in ("", "0")}


class _SpecField(fields.Field[TaskSpec | None]):
    """A `TaskSpec` as its JSON document, or None for an empty text."""

    def _serialize(self, value: TaskSpec | None, *_: Any, **__: Any) -> str:
        return value.to_json() if value else ""

    def _deserialize(self, value: str, *_: Any, **__: Any) -> TaskSpec | None:
        return TaskSpec.from_json(value) if value else None


class ErrorSchema(RecordSchema):
    code = fields.String(required=True)
    message = fields.String(required=True)
    retryable = fields.Boolean(required=True)
    hint = fields.String(required=True)

    @post_load
    def make(self, data: dict[str, Any], **_: Any) -> ErrorReport:
        return ErrorReport(**data)


class WaitingSchema(RecordSchema):
    reason = fields.String(required=True)
    until = fields.String(required=True)
    registry = fields.String(load_default=None, allow_none=True)
    message = fields.String(load_default=None, allow_none=True)

    @post_load
    def make(self, data: dict[str, Any], **_: Any) -> WaitingFor:
        return WaitingFor(**data)


class _BlobRecordSchema(RecordSchema):
    digest = fields.String(required=True)
    size = Count()
    state = fields.String(required=True)
    copied = Count()
    reason = fields.String(load_default=None, allow_none=True)
    code = fields.String(load_default=None, allow_none=True)

    @post_load
    def make(self, data: dict[str, Any], **_: Any) -> BlobReport:
        return BlobReport(**data)


class _TaskRecordSchema(RecordSchema):
    """The hash of a task."""

    id = fields.String(required=True)
    job = fields.String(required=True)
    spec = _SpecField(load_default=None)
    source = Text(load_default=None, load_only=True)
    target = Text(load_default=None, load_only=True)
    state = fields.String(required=True)
    created_at = Moment(required=True)
    fence = fields.Integer(load_default=0)
    losses = fields.Integer(load_default=0)
    attempt = fields.Integer(load_default=1)
    digest = Text(load_default=None)
    unchanged = Flag(load_default=False)
    superseded_by = Text(load_default=None)
    waiting_for = Json(load_default=None)
    error = Json(load_default=None)
    bytes_total = Count()
    bytes_copied = Count()
    bytes_skipped = Count()
    foreign_copied = Count(load_default=None)
    foreign_left_out = Count(load_default=None)
    blob_counts = Json(load_default=None)
    started_at = Moment(load_default=None)
    finished_at = Moment(load_default=None)

    @post_load
    def make(self, data: dict[str, Any], **_: Any) -> Task:
        data["waiting_for"] = data["waiting_for"] and WaitingSchema().load(data["waiting_for"])
        data["error"] = data["error"] and ErrorSchema().load(data["error"])
        source, target = data.pop("source"), data.pop("target")
        data["spec"] = data["spec"] or TaskSpec.parse(source or "", target or "")
        return Task(**data)


_BLOB_SCHEMA: Final = _BlobRecordSchema()
_SCHEMA: Final = _TaskRecordSchema()  # made once: a schema copies its fields, which takes longer than a record does
