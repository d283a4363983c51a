"""A task: one piece of a job, for one worker at a time. Most copy one image."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Final, Literal, Self, get_args

from marshmallow import fields, post_load

from mirror.errors import MirrorError
from mirror.records.fields import Count, Flag, Json, Moment, RecordSchema, Text, record_fields
from mirror.records.spec import CopySpec, TaskSpec, read_spec
from mirror.records.states import TaskState
from mirror.signatures.policy import SignatureVerdict

BlobState = Literal["waiting", "copying", "verifying", "copied", "exists", "skipped", "failed"]
BLOB_STATES: Final[tuple[BlobState, ...]] = get_args(BlobState)
KEPT_BLOBS: Final = 1_000
"""Blobs of one task that Redis keeps: the first of its plan. An image may have a hundred thousand."""
SHOWN_FIELD: Final = "shown"
"""The field of the blobs' hash with the list of blobs to show, of an image that has too many."""
SHOWN_BLOBS: Final = 100
"""Blobs of one task that are read with it. All are read in pages."""


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
class ReferrerCounts:
    """Referrers of an image: copied now, held already, and left out because the mirror cannot hold them."""

    copied: int = 0
    unchanged: int = 0
    left_out: int = 0


@dataclass(frozen=True, slots=True)
class Skipped:
    """Why a copy left its target alone on purpose: a stable *reason* such as ``exists``, and a sentence for people.

    Of a tag that its source has moved (``moved``), ``digest`` is what it keeps, and ``source_digest`` what the source
    has.
    """

    reason: str
    message: str
    digest: str | None = None
    source_digest: str | None = None

    def fields(self) -> dict[str, str]:
        """Return it as a record stores it, without the digests where it has none."""
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True, slots=True)
class Expansion:
    """The progress of a task that expands a source.

    *selection* counts what was ``listed``, ``selected`` and ``dropped`` by each rule. It is None until the source was
    listed completely. Of its *parts*, *added* ones are in the job: *tasks* new tasks, and *unchanged* and *skipped*
    images.
    """

    selection: Mapping[str, Any] | None = None
    parts: int = 0
    added: int = 0
    tasks: int = 0
    unchanged: int = 0
    skipped: int = 0


_NOT_EXPANDED: Final = Expansion()


@dataclass(frozen=True, slots=True)
class Task:
    """A task as it is stored in Redis.

    ``fence`` grows with every claim, so that a worker that lost its claim can write nothing. ``losses`` counts claims
    in a row that expired without a checkpoint. ``attempt`` is what the user sees, from 1. ``blob_counts`` says how many
    blobs are in which state, and is None until they are known. So are ``foreign_copied`` and ``foreign_left_out``.

    ``digest`` is what the target shows and ``source_digest`` what the source has. They differ after a rewrite.
    ``referrers`` is None until they were looked for, and ``signature`` if none was required.
    ``staged`` is the number of the tag's change in an atomic job. ``plan`` is what a dry run found.
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
    source_digest: str | None = None
    unchanged: bool = False
    skipped: Skipped | None = None
    staged: int | None = None
    plan: Mapping[str, Any] | None = None
    expansion: Expansion = _NOT_EXPANDED
    superseded_by: str | None = None
    waiting_for: WaitingFor | None = None
    error: ErrorReport | None = None
    bytes_total: int = 0
    bytes_copied: int = 0
    bytes_skipped: int = 0
    foreign_copied: int | None = None
    foreign_left_out: int | None = None
    referrers: ReferrerCounts | None = None
    signature: SignatureVerdict | None = None
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

        Fields that are empty or 0 are left out: a reader has the same defaults. The scripts read the kind.
        """
        found = {name: text for name, text in record_fields(_SCHEMA.dump(self)).items() if text not in ("", "0")}
        return found if self.spec.kind == "copy" else {**found, "kind": self.spec.kind}


class _SpecField(fields.Field[TaskSpec | None]):
    """A spec as its JSON document, or None for an empty text."""

    def _serialize(self, value: TaskSpec | None, *_: Any, **__: Any) -> str:
        return value.to_json() if value else ""

    def _deserialize(self, value: str, *_: Any, **__: Any) -> TaskSpec | None:
        return read_spec(value) if value else None


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


class _SkippedSchema(RecordSchema):
    reason = fields.String(required=True)
    message = fields.String(required=True)
    digest = fields.String(load_default=None, allow_none=True)
    source_digest = fields.String(load_default=None, allow_none=True)

    @post_load
    def make(self, data: dict[str, Any], **_: Any) -> Skipped:
        return Skipped(**data)


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
    source_digest = Text(load_default=None)
    unchanged = Flag(load_default=False)
    skipped = Json(load_default=None)
    staged = fields.Integer(load_default=None)
    plan = Json(load_default=None)
    selection = Json(load_default=None, load_only=True)
    parts = Count(load_only=True)
    expanded = Count(load_only=True)
    tasks_added = Count(load_only=True)
    tags_unchanged = Count(load_only=True)
    tags_skipped = Count(load_only=True)
    superseded_by = Text(load_default=None)
    waiting_for = Json(load_default=None)
    error = Json(load_default=None)
    bytes_total = Count()
    bytes_copied = Count()
    bytes_skipped = Count()
    foreign_copied = Count(load_default=None)
    foreign_left_out = Count(load_default=None)
    referrers_copied = Count(load_default=None, load_only=True)
    referrers_unchanged = Count(load_only=True)
    referrers_left_out = Count(load_only=True)
    signature = Json(load_default=None, load_only=True)
    blob_counts = Json(load_default=None)
    started_at = Moment(load_default=None)
    finished_at = Moment(load_default=None)

    @post_load
    def make(self, data: dict[str, Any], **_: Any) -> Task:
        data["waiting_for"] = data["waiting_for"] and WaitingSchema().load(data["waiting_for"])
        data["error"] = data["error"] and ErrorSchema().load(data["error"])
        data["skipped"] = data["skipped"] and _SkippedSchema().load(data["skipped"])
        counts = ("parts", "expanded", "tasks_added", "tags_unchanged", "tags_skipped")
        data["expansion"] = Expansion(data.pop("selection"), *(data.pop(name) for name in counts))
        referrers = [data.pop(f"referrers_{name}") for name in ("copied", "unchanged", "left_out")]
        data["referrers"] = None if referrers[0] is None else ReferrerCounts(*referrers)
        data["signature"] = SignatureVerdict.from_fields(data["signature"])
        source, target = data.pop("source"), data.pop("target")
        data["spec"] = data["spec"] or CopySpec.parse(source or "", target or "")
        return Task(**data)


_BLOB_SCHEMA: Final = _BlobRecordSchema()
_SCHEMA: Final = _TaskRecordSchema()  # made once: a schema copies its fields, which takes longer than a record does
