"""Errors about schedules and their runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from mirror.errors.base import Conflict, NotHeld, quoted
from mirror.errors.input import InvalidInput

MOST_PROBLEMS: Final = 100
"""Problems of a file that an error keeps."""


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

    def __init__(self, name: str, version: str | None, *, exists: bool = True) -> None:
        now = f"has the version {version}" if version else "was changed meanwhile" if exists else "does not exist"
        super().__init__(f"The schedule {quoted(name)} {now}, which does not match If-Match or If-None-Match")


class ScheduleFromFile(Conflict):
    """The sync file made the schedule, and would undo a change at its next reading."""

    code = "SCHEDULE_FROM_FILE"
    hint = "Change the sync file (MIRROR_SYNC_FILE). To run the schedule now, POST to its /run."

    def __init__(self, name: str) -> None:
        super().__init__(f"The schedule {quoted(name)} comes from the sync file, and the API does not change it")


class ScheduleBusy(Conflict):
    """Other requests or schedulers changed the schedule each time before this change was stored."""

    code, retryable = "SCHEDULE_BUSY", True
    http_retry_after = 1
    hint = "Other changes of this schedule are in progress. Try again in a second."

    def __init__(self, name: str) -> None:
        super().__init__(f"The schedule {quoted(name)} is being changed by others")


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


@dataclass(frozen=True, slots=True, order=True)
class FileProblem:
    """What is wrong with a file at one place. *pointer* is the path of the value there (RFC 6901)."""

    line: int
    column: int
    detail: str
    pointer: str = ""


class SyncFileInvalid(InvalidInput):
    """The sync file cannot be used. ``problems`` are in the order of the file. Nothing of it was applied.

    What is wrong with a default is wrong with every sync that takes it, and counts once.
    """

    code = "FILE_INVALID"
    hint = "Mend the file at the lines that 'errors' names. Nothing of it was applied."

    def __init__(self, problems: Sequence[FileProblem]) -> None:
        distinct = {(one.line, one.column, one.detail): one for one in sorted(problems, reverse=True)}
        found = sorted(distinct.values())
        self.problems = tuple(found[:MOST_PROBLEMS])
        first, more = found[0], len(found) - 1
        others = f" There {'is' if more == 1 else 'are'} {more} more." if more else ""
        super().__init__(f"line {first.line}, column {first.column}: {first.detail}{others}")


class SyncFileWatched(Conflict):
    """A request would apply a file, but the schedulers follow another one."""

    code = "SYNC_FILE_WATCHED"
    hint = "Change the file that MIRROR_SYNC_FILE names. A dry run of a request is still possible."

    def __init__(self, name: str) -> None:
        super().__init__(f"The schedulers follow the file {quoted(name)}, and would undo what the request changes")
