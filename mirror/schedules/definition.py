"""Read the definition of a schedule, and check what its form alone does not show: the times at which it runs."""

from __future__ import annotations

from typing import Any

from marshmallow import ValidationError, validates_schema

from mirror.records.schedule import Timetable
from mirror.records.schedule_schema import ScheduleDefinitionSchema
from mirror.schedules import slots


class ScheduleRequestSchema(ScheduleDefinitionSchema):
    """A schedule as a user writes it: in a request, and in the sync file."""

    @validates_schema(skip_on_field_errors=True)
    def require_times(self, data: dict[str, Any], **_: Any) -> None:
        timetable = Timetable(data["cron"], data["every"], data["time_zone"], data["jitter"])
        if problems := slots.problems(timetable):
            raise ValidationError({field: [message] for field, message in problems.items()})
