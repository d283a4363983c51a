"""A job: one request to mirror something, and the tasks it was split into."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Self

from marshmallow import fields, post_load

from mirror.records.fields import Count, Json, Moment, RecordSchema, Text, record_fields
from mirror.records.states import JobState
from mirror.records.task import (
    ErrorReport,
    ErrorSchema,
    ForeignLayerCounts,
    TaskSpec,
    WaitingFor,
    WaitingSchema,
)


@dataclass(frozen=True, slots=True)
class ImageCounts:
    """How many of the job's images are in which state.

    Those that are ``unchanged`` count as succeeded, too.
    """

    total: int
    succeeded: int = 0
    failed: int = 0
    canceled: int = 0
    unchanged: int = 0
    running: int = 0


IMAGE_COUNTS: Final = tuple(count.name for count in dataclasses.fields(ImageCounts))


@dataclass(frozen=True, slots=True)
class ByteCounts:
    """Bytes of layers and configs: all, those copied, and those already held."""

    total: int = 0
    copied: int = 0
    skipped: int = 0


@dataclass(frozen=True, slots=True)
class Job:
    """A job as it stands in Redis.

    ``spec`` is that of its only task, and None for a job of several images.

    After ``cancel_requested_at`` no more of its tasks begin. The job ends when those that run have stopped.
    """

    id: str
    spec: TaskSpec | None
    state: JobState
    created_at: datetime
    images: ImageCounts
    bytes: ByteCounts = field(default_factory=ByteCounts)
    foreign_layers: ForeignLayerCounts = field(default_factory=ForeignLayerCounts)
    attempt: int = 1
    digest: str | None = None
    superseded_by: str | None = None
    waiting_for: WaitingFor | None = None
    error: ErrorReport | None = None
    cancel_requested_at: datetime | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None

    @classmethod
    def from_record(cls, record: Mapping[str, str]) -> Self:
        """Read a job's hash."""
        job: Self = _SCHEMA.load(record)
        return job

    def to_record(self) -> dict[str, str]:
        """Return the fields of the hash."""
        sizes = {f"bytes_{name}": getattr(self.bytes, name) for name in ("total", "copied", "skipped")}
        sizes |= {f"foreign_{name}": getattr(self.foreign_layers, name) for name in ("copied", "left_out")}
        counts = {name: getattr(self.images, name) for name in IMAGE_COUNTS}
        own = {name: getattr(self, name) for name in _SCHEMA.dump_fields if name not in sizes and name not in counts}
        own["spec"] = self.spec.to_json() if self.spec else None
        return record_fields(_SCHEMA.dump({**own, **sizes, **counts}))


class _JobRecordSchema(RecordSchema):
    """The hash of a job."""

    id = fields.String(required=True)
    spec = Text(load_default=None)
    source = Text(load_default=None, load_only=True)
    target = Text(load_default=None, load_only=True)
    state = fields.String(required=True)
    created_at = Moment(required=True)
    total = Count()
    succeeded = Count()
    failed = Count()
    canceled = Count()
    unchanged = Count()
    running = Count()
    bytes_total = Count()
    bytes_copied = Count()
    bytes_skipped = Count()
    foreign_copied = Count()
    foreign_left_out = Count()
    attempt = fields.Integer(load_default=1)
    digest = Text(load_default=None)
    superseded_by = Text(load_default=None)
    waiting_for = Json(load_default=None)
    error = Json(load_default=None)
    cancel_requested_at = Moment(load_default=None)
    started_at = Moment(load_default=None)
    finished_at = Moment(load_default=None)

    @post_load
    def make(self, data: dict[str, Any], **_: Any) -> Job:
        counts = {name: data.pop(name) for name in IMAGE_COUNTS}
        sizes = {name: data.pop(f"bytes_{name}") for name in ("total", "copied", "skipped")}
        foreign = ForeignLayerCounts(data.pop("foreign_copied"), data.pop("foreign_left_out"))
        data["waiting_for"] = data["waiting_for"] and WaitingSchema().load(data["waiting_for"])
        data["error"] = data["error"] and ErrorSchema().load(data["error"])
        data["spec"] = _shown_spec(data["spec"], data.pop("source"), data.pop("target"))
        return Job(images=ImageCounts(**counts), bytes=ByteCounts(**sizes), foreign_layers=foreign, **data)


def _shown_spec(document: str | None, source: str | None, target: str | None) -> TaskSpec | None:
    """Read the spec of a job's only task.

    One that cannot be read is None: it is only shown, and the task fails.
    """
    try:
        if document:
            return TaskSpec.from_json(document)
        return TaskSpec.parse(source, target) if source and target else None
    except ValueError:
        return None


_SCHEMA: Final = _JobRecordSchema()
