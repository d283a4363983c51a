"""A schedule: a request for a job, and when and how it is repeated. Its runs are in `mirror.records.run`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final, Literal, get_args

from mirror.records.rules import OnMove

Overlap = Literal["skip", "queue", "cancel_running"]
OVERLAPS: Final[tuple[Overlap, ...]] = get_args(Overlap)
CatchUp = Literal["none", "last"]
CATCH_UPS: Final[tuple[CatchUp, ...]] = get_args(CatchUp)
OnDelete = Literal["keep", "delete", "tombstone"]
ON_DELETES: Final[tuple[OnDelete, ...]] = get_args(OnDelete)
Origin = Literal["api", "file"]


@dataclass(frozen=True, slots=True)
class Timetable:
    """When a schedule runs: at the times of a *cron* expression in a time zone, or *every* so often.

    *cron* has five fields, or is an alias such as ``@daily``. Exactly one of *cron* and *every* is set. *time_zone* is
    an IANA name. *jitter* delays each slot by a part of itself, which depends on schedule and slot only.
    `mirror.schedules.slots` turns it into times.
    """

    cron: str | None = None
    every: timedelta | None = None
    time_zone: str = "UTC"
    jitter: timedelta = timedelta(0)


@dataclass(frozen=True, slots=True)
class DeleteBrake:
    """Delete nothing in a run that would delete more than *max_count* tags, or more than *max_share* of all."""

    max_share: float = 0.5
    max_count: int = 100


@dataclass(frozen=True, slots=True)
class UpstreamRules:
    """What becomes of a mirrored tag that its source has deleted or moved.

    A tag counts as deleted after *gone_for* complete listings in a row without it, and not before a day has passed.
    """

    on_delete: OnDelete = "keep"
    on_move: OnMove = "follow"
    gone_for: int = 3
    brake: DeleteBrake = DeleteBrake()


@dataclass(frozen=True, slots=True)
class ScheduleDefinition:
    """What a user writes of a schedule. *job* is the document of a request for a job, as it was written.

    A run that takes longer than *deadline* is canceled. With *run_on_change* the schedule also runs once after it was
    created, or after its job was changed.
    """

    name: str
    timetable: Timetable
    job: Mapping[str, Any]
    enabled: bool = True
    overlap: Overlap = "skip"
    catch_up: CatchUp = "last"
    deadline: timedelta | None = None
    run_on_change: bool = False
    labels: Mapping[str, str] = field(default_factory=dict)
    upstream: UpstreamRules = UpstreamRules()


@dataclass(frozen=True, slots=True)
class ScheduleHealth:
    """How the last runs of a schedule went. Skipped runs do not count."""

    last_run: str | None = None
    last_run_at: datetime | None = None
    last_state: str | None = None
    last_success_at: datetime | None = None
    consecutive_failures: int = 0


@dataclass(frozen=True, slots=True)
class Schedule:
    """A schedule as it stands in Redis.

    *version* grows with each change of the definition. *origin* says who made it: the API, or the sync file.
    *next_slot* is None while it is disabled. *open_run* has not ended. At most one more run waits for its end
    (*queued_run*).
    """

    id: str
    definition: ScheduleDefinition
    version: int
    origin: Origin
    owner: str
    created_at: datetime
    updated_at: datetime
    next_slot: datetime | None = None
    next_run_at: datetime | None = None
    open_run: str | None = None
    queued_run: str | None = None
    health: ScheduleHealth = ScheduleHealth()
