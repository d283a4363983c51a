"""A job: one request to mirror something, and the tasks it was split into."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Literal, Self, get_args

from marshmallow import fields, post_load

from mirror.records.fields import Count, Flag, Json, Moment, RecordSchema, Text, record_fields
from mirror.records.run import RunOrigin, RunOriginSchema
from mirror.records.spec import CopySpec, TaskSpec, read_spec
from mirror.records.states import JobState
from mirror.records.task import (
    ErrorReport,
    ErrorSchema,
    ForeignLayerCounts,
    ReferrerCounts,
    WaitingFor,
    WaitingSchema,
)


@dataclass(frozen=True, slots=True)
class ImageCounts:
    """How many of the job's images are in which state.

    Those that are ``unchanged`` or ``skipped`` count as succeeded, too.
    """

    total: int
    succeeded: int = 0
    failed: int = 0
    canceled: int = 0
    unchanged: int = 0
    skipped: int = 0
    running: int = 0


IMAGE_COUNTS: Final = tuple(count.name for count in dataclasses.fields(ImageCounts))


@dataclass(frozen=True, slots=True)
class ByteCounts:
    """Bytes of layers and configs: all, those copied, and those already held."""

    total: int = 0
    copied: int = 0
    skipped: int = 0


JobKind = Literal["mirror", "plan"]
Priority = Literal["high", "normal", "low"]
PRIORITIES: Final[tuple[Priority, ...]] = get_args(Priority)
OnError = Literal["continue", "abort"]
ON_ERRORS: Final[tuple[OnError, ...]] = get_args(OnError)


@dataclass(frozen=True, slots=True)
class JobOptions:
    """What holds for a whole job.

    A ``plan`` says what it would do. ``abort`` cancels the rest at the first failure. The tags of an ``atomic`` job
    move together, after all of its images were copied.
    """

    kind: JobKind = "mirror"
    priority: Priority = "normal"
    on_error: OnError = "continue"
    atomic: bool = False


USUAL: Final = JobOptions()
_REFERRERS: Final = ("copied", "unchanged", "left_out")
JOB_OPTIONS: Final = tuple(option.name for option in dataclasses.fields(JobOptions))


@dataclass(frozen=True, slots=True)
class Job:
    """A job as it stands in Redis.

    ``spec`` is that of its only request, and None for a job of several. ``listed`` and ``selected`` count the tags that
    its expansions have found so far. ``release_window`` are the milliseconds in which the tags of an atomic job moved.

    ``run`` is the run of a schedule that has started it.

    After ``cancel_requested_at`` no more of its tasks begin. The job ends when those that run have stopped.
    """

    id: str
    spec: TaskSpec | None
    state: JobState
    created_at: datetime
    images: ImageCounts
    bytes: ByteCounts = field(default_factory=ByteCounts)
    foreign_layers: ForeignLayerCounts = field(default_factory=ForeignLayerCounts)
    referrers: ReferrerCounts = field(default_factory=ReferrerCounts)
    options: JobOptions = USUAL
    listed: int = 0
    selected: int = 0
    release_window: int | None = None
    attempt: int = 1
    digest: str | None = None
    source_digest: str | None = None
    superseded_by: str | None = None
    waiting_for: WaitingFor | None = None
    error: ErrorReport | None = None
    cancel_requested_at: datetime | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    run: RunOrigin | None = None

    @classmethod
    def from_record(cls, record: Mapping[str, str]) -> Self:
        """Read a job's hash."""
        job: Self = _SCHEMA.load(record)
        return job

    def to_record(self) -> dict[str, str]:
        """Return the fields of the hash."""
        sizes = {f"bytes_{name}": getattr(self.bytes, name) for name in ("total", "copied", "skipped")}
        sizes |= {f"foreign_{name}": getattr(self.foreign_layers, name) for name in ("copied", "left_out")}
        sizes |= {f"referrers_{name}": getattr(self.referrers, name) for name in _REFERRERS}
        counts = {name: getattr(self.images, name) for name in IMAGE_COUNTS}
        sizes |= {name: getattr(self.options, name) for name in JOB_OPTIONS}
        own = {name: getattr(self, name) for name in _SCHEMA.dump_fields if name not in sizes and name not in counts}
        own["spec"] = self.spec.to_json() if self.spec else None
        own["run"] = RunOriginSchema().dump(self.run) if self.run else None
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
    skipped = Count()
    running = Count()
    bytes_total = Count()
    bytes_copied = Count()
    bytes_skipped = Count()
    foreign_copied = Count()
    foreign_left_out = Count()
    referrers_copied = Count()
    referrers_unchanged = Count()
    referrers_left_out = Count()
    kind = fields.String(load_default=USUAL.kind)
    priority = fields.String(load_default=USUAL.priority)
    on_error = fields.String(load_default=USUAL.on_error)
    atomic = Flag(load_default=USUAL.atomic)
    listed = Count()
    selected = Count()
    release_window = Json(load_default=None)
    attempt = fields.Integer(load_default=1)
    digest = Text(load_default=None)
    source_digest = Text(load_default=None)
    superseded_by = Text(load_default=None)
    waiting_for = Json(load_default=None)
    error = Json(load_default=None)
    cancel_requested_at = Moment(load_default=None)
    started_at = Moment(load_default=None)
    finished_at = Moment(load_default=None)
    run = Json(load_default=None)

    @post_load
    def make(self, data: dict[str, Any], **_: Any) -> Job:
        counts = {name: data.pop(name) for name in IMAGE_COUNTS}
        sizes = {name: data.pop(f"bytes_{name}") for name in ("total", "copied", "skipped")}
        options = JobOptions(**{name: data.pop(name) for name in JOB_OPTIONS})
        data["referrers"] = ReferrerCounts(*(data.pop(f"referrers_{name}") for name in _REFERRERS))
        foreign = ForeignLayerCounts(data.pop("foreign_copied"), data.pop("foreign_left_out"))
        data["waiting_for"] = data["waiting_for"] and WaitingSchema().load(data["waiting_for"])
        data["run"] = data["run"] and RunOriginSchema().load(data["run"])
        data["error"] = data["error"] and ErrorSchema().load(data["error"])
        data["spec"] = _shown_spec(data["spec"], data.pop("source"), data.pop("target"))
        images = ImageCounts(**counts)
        return Job(images=images, bytes=ByteCounts(**sizes), foreign_layers=foreign, options=options, **data)


def _shown_spec(document: str | None, source: str | None, target: str | None) -> TaskSpec | None:
    """Read the spec of a job's only task.

    One that cannot be read is None: it is only shown, and the task fails.
    """
    try:
        if document:
            return read_spec(document)
        return CopySpec.parse(source, target) if source and target else None
    except ValueError:
        return None


_SCHEMA: Final = _JobRecordSchema()
