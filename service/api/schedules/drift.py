"""The JSON of drift reports: what a run of a schedule would change now."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from itertools import islice
from time import monotonic, sleep
from typing import Any, Final

from marshmallow import Schema, fields, validate

from mirror.records.rule_fields import Duration
from mirror.records.schedule import Schedule
from mirror.schedules.drift import DRIFT_STATES, Drift
from service.core import core
from service.http.pagination import Timestamp, public_url

_MOST_SHOWN: Final = 100
_LONGEST_WAIT: Final = timedelta(seconds=25)
_POLL_SECONDS: Final = 0.5
_YOUNGEST: Final = timedelta(seconds=10)
_OLDEST: Final = timedelta(days=1)


class DriftQuery(Schema):
    max_age = Duration(
        load_default=timedelta(minutes=1),
        validate=validate.Range(_YOUNGEST, _OLDEST, error="Write a duration from '10s' to '24h'."),
        metadata={"type": "string", "description": "A report that is younger is returned again.", "example": "5m"},
    )
    wait = Duration(
        load_default=timedelta(0),
        validate=validate.Range(max=_LONGEST_WAIT, error="Write a duration up to '25s'."),
        metadata={"type": "string", "description": "Wait so long for the report.", "example": "25s"},
    )


class GoneTagSchema(Schema):
    """A mirrored tag that its source does not list."""

    target = fields.String(required=True, metadata={"example": "docker.io/library/alpine:3.17"})
    source = fields.String(required=True, metadata={"example": "docker.io/library/alpine:3.17"})
    missing = fields.Integer(
        required=True, metadata={"description": "Complete listings in a row without it, with that of the report."}
    )
    missing_since = Timestamp(required=True)


class DriftSchema(Schema):
    """What a run would change."""

    state = fields.String(
        required=True,
        validate=validate.OneOf(DRIFT_STATES),
        metadata={
            "description": "`in_sync`: a run would change nothing. `drifted`: it would, or it would report a move or a "
            "brake. `unknown`: a source could not be looked at.",
            "example": "drifted",
        },
    )
    copy = fields.Integer(
        required=True, metadata={"description": "Tags that are new, or that their source has moved.", "example": 2}
    )
    moved = fields.Integer(
        required=True, metadata={"description": "Moves that are only reported: `on_move_upstream`.", "example": 0}
    )
    immutable = fields.Integer(
        required=True, metadata={"description": "Immutable tags that their source has moved.", "example": 0}
    )
    delete = fields.Integer(required=True, metadata={"description": "Tags that are due to be deleted.", "example": 1})
    failed = fields.Integer(required=True, metadata={"description": "Images that could not be looked at."})
    braked = fields.Boolean(
        required=True, metadata={"description": "Whether the brake keeps a run from deleting what is due."}
    )
    gone = fields.List(
        fields.Nested(GoneTagSchema),
        required=True,
        metadata={"description": "Up to 100 tags that the source does not list, also those that are not due yet."},
    )
    plan = fields.String(
        required=True,
        metadata={"description": "Each image with its action.", "example": "http://127.0.0.1:8080/v1/plans/plan_01J…"},
    )
    made_at = Timestamp(required=True)


class PendingDriftSchema(Schema):
    """A report that workers are making."""

    state = fields.String(required=True, validate=validate.OneOf(["planning"]))


def wait_for_drift(schedule: Schedule, query: Mapping[str, timedelta]) -> dict[str, Any] | None:
    """Return the report of a schedule. None if it is not made after the time that the *query* waits."""
    until = monotonic() + query["wait"].total_seconds()
    while (found := core().drift_reports.report(schedule, query["max_age"])) is None:
        if monotonic() + _POLL_SECONDS > until:
            return None
        sleep(_POLL_SECONDS)
    return _document(found)


def _document(found: Drift) -> dict[str, Any]:
    gone = [
        {"target": target, "source": tag.source, "missing": tag.missing, "missing_since": tag.missing_since}
        for target, tag in islice(sorted(found.gone.items()), _MOST_SHOWN)
    ]
    numbers = {name: getattr(found, name) for name in ("state", "copy", "moved", "immutable", "delete", "failed")}
    plan = public_url("plans.read_plan", plan_id=found.plan)
    return {**numbers, "braked": found.is_braked, "gone": gone, "plan": plan, "made_at": found.made_at}
