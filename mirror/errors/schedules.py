"""Errors about schedules and their runs."""

from __future__ import annotations

from mirror.errors.base import Conflict, NotHeld, quoted


class ScheduleUnknown(NotHeld):
    code = "SCHEDULE_UNKNOWN"
    hint = "GET /v1/schedules lists the schedules."

    def __init__(self, name: str) -> None:
        super().__init__(f"There is no schedule {quoted(name)}")


class ScheduleExists(Conflict):
    code = "SCHEDULE_EXISTS"
    hint = "Choose another name, or PUT the definition to the existing schedule."

    def __init__(self, name: str) -> None:
        super().__init__(f"There is a schedule with the name {quoted(name)} already")


class ScheduleChanged(Conflict):
    """The schedule has another version than a request expects."""

    code = "PRECONDITION_FAILED"
    status = 412
    hint = "Read the schedule again, then decide."

    def __init__(self, name: str, version: str | None) -> None:
        now = f"has the version {version}" if version else "was changed meanwhile"
        super().__init__(f"The schedule {quoted(name)} {now}, which does not match If-Match or If-None-Match")


class RunUnknown(NotHeld):
    code = "RUN_UNKNOWN"
    hint = "GET /v1/schedules/{name}/runs lists the last runs of a schedule."

    def __init__(self, run_id: str) -> None:
        super().__init__(f"There is no run {quoted(run_id)}")


class RunUnfinished(Conflict):
    """A schedule whose last run goes on is not run a second time."""

    code = "RUN_UNFINISHED"
    hint = "Wait until it ends, cancel its job, or set the schedule's 'overlap' to 'queue'."

    def __init__(self, name: str, run_id: str) -> None:
        super().__init__(f"The run {quoted(run_id)} of the schedule {quoted(name)} has not ended")
