"""Make the schedules those of a sync file. `diff` is pure, and a `Converger` applies what it returns.

A file owns the schedules that a file has made: their ``origin`` is ``file``. It creates, updates and deletes these. A
schedule that the API has made is never touched. If a sync has the same name, that is a conflict, which is reported.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Final

import structlog

from mirror.errors import (
    AddressNotAllowed,
    FileProblem,
    InvalidInput,
    ScheduleChanged,
    ScheduleExists,
    ScheduleUnknown,
    SyncFileInvalid,
    listed,
)
from mirror.records.schedule import Schedule, ScheduleDefinition
from mirror.records.schedule_schema import dump_definition
from mirror.records.sync_file_status import (
    MOST_CONFLICTS,
    LastChange,
    State,
    SyncFileStatus,
    SyncFileStatusStore,
)
from mirror.schedules.schedules import Schedules
from mirror.schedules.sync_file import Sync, SyncFile

_ORIGIN: Final = "file"
_WATCHED: Final = timedelta(minutes=5)
"""Time after the last look during which a file counts as followed. A scheduler looks every minute."""
_IMPOSSIBLE: Final = (InvalidInput, AddressNotAllowed)
"""What the check of a job raises."""
_LOG = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Update:
    """A schedule that gets another definition. *fields* are those that differ."""

    schedule: Schedule
    definition: ScheduleDefinition
    fields: tuple[str, ...]

    @property
    def name(self) -> str:
        return self.definition.name


@dataclass(frozen=True, slots=True)
class Changes:
    """What makes the schedules those of a file, each part in the order of names.

    *conflicts* are names that schedules of the API have.
    """

    create: tuple[ScheduleDefinition, ...] = ()
    update: tuple[Update, ...] = ()
    delete: tuple[Schedule, ...] = ()
    unchanged: int = 0
    conflicts: tuple[str, ...] = ()

    @property
    def is_empty(self) -> bool:
        """Whether nothing is to be done."""
        return not (self.create or self.update or self.delete)


def diff(wanted: Sequence[ScheduleDefinition], held: Sequence[Schedule]) -> Changes:
    """Compare the schedules of a file with those that exist. No I/O."""
    wanted_by_name = {definition.name: definition for definition in wanted}
    held_by_name = {schedule.definition.name: schedule for schedule in held}
    create, update, conflicts, unchanged = [], [], [], 0
    for name, definition in sorted(wanted_by_name.items()):
        schedule = held_by_name.get(name)
        if schedule is None:
            create.append(definition)
        elif schedule.origin != _ORIGIN:
            conflicts.append(name)
        elif fields := _changed_fields(schedule.definition, definition):
            update.append(Update(schedule, definition, fields))
        else:
            unchanged += 1
    delete = [
        schedule
        for name, schedule in sorted(held_by_name.items())
        if schedule.origin == _ORIGIN and name not in wanted_by_name
    ]
    return Changes(tuple(create), tuple(update), tuple(delete), unchanged, tuple(conflicts))


def _changed_fields(before: ScheduleDefinition, after: ScheduleDefinition) -> tuple[str, ...]:
    if before == after:
        return ()
    held, wanted = dump_definition(before), dump_definition(after)
    return tuple(name for name in wanted if wanted[name] != held[name])


class Converger:
    """Compares sync files with the schedules, applies them, and notes what became of them.

    *now* is the wall clock. *path* is that of the file that the schedulers follow, if the settings name one. Safe to
    share between threads. Every method raises RedisUnavailable.
    """

    def __init__(
        self, schedules: Schedules, statuses: SyncFileStatusStore, now: Callable[[], datetime], path: Path | None
    ) -> None:
        self._schedules = schedules
        self._statuses = statuses
        self._now = now
        self._path = path

    @property
    def watched(self) -> str | None:
        """The base name of the file that schedulers follow: the setting says so, or a scheduler that has looked lately.

        None if there is none.
        """
        if self._path is not None:
            return self._path.name
        status = self._statuses.read()
        is_fresh = status is not None and self._now() - status.checked_at < _WATCHED
        return status.file if status is not None and is_fresh else None

    def status(self) -> SyncFileStatus | None:
        """Return what became of the last file."""
        return self._statuses.read()

    def require_possible(self, file: SyncFile) -> None:
        """Raise SyncFileInvalid if the job of a sync could never run."""
        if problems := [problem for sync in file.syncs for problem in self._problems(sync)]:
            raise SyncFileInvalid(problems)

    def changes(self, file: SyncFile) -> Changes:
        """Return what would make the schedules those of the file."""
        return diff([sync.definition for sync in file.syncs], self._schedules.store.all())

    def converge(self, file: SyncFile, sha256: str, name: str | None = None) -> Changes:
        """Make the schedules those of a file that was checked. Return what was changed.

        Deletes come last. A schedule that somebody else changes at the same time is left out.
        """
        wanted, schedules, now = self.changes(file), self._schedules, self._now()
        create = [one for one in wanted.create if _is_done(one.name, partial(schedules.create, one, _ORIGIN))]
        update = [one for one in wanted.update if _is_done(one.name, partial(_update, schedules, one))]
        delete = [one for one in wanted.delete if _is_done(one.definition.name, partial(_delete, schedules, one))]
        made = Changes(tuple(create), tuple(update), tuple(delete), wanted.unchanged, wanted.conflicts)
        before = self._statuses.read()
        last = before.last_change if before else None
        if last is None or last.sha256 != sha256 or not made.is_empty:
            last = LastChange(sha256, now, len(create), len(update), len(delete), made.unchanged)
        conflicts = made.conflicts[:MOST_CONFLICTS]
        self._note(before, SyncFileStatus("ok", now, name, sha256, conflicts=conflicts, last_change=last))
        return made

    def note_unusable(
        self, state: State, name: str, sha256: str | None = None, problems: tuple[FileProblem, ...] = ()
    ) -> None:
        """Note that a file has changed nothing. What the last good one has changed stays known."""
        before = self._statuses.read()
        last = before.last_change if before else None
        self._note(before, SyncFileStatus(state, self._now(), name, sha256, problems, last_change=last))

    def _note(self, before: SyncFileStatus | None, status: SyncFileStatus) -> None:
        """Store a status. Log it if it says something new."""
        self._statuses.write(status)
        if before is not None and replace(before, checked_at=status.checked_at) == status:
            return
        facts = {"file": status.file, "sha256": status.sha256 and status.sha256[:12]}
        if status.state == "missing":
            _LOG.warning("the sync file is missing, nothing is changed", **facts)
        elif status.state == "broken":
            first, count = status.problems[0], len(status.problems)
            place = {"line": first.line, "column": first.column, "key": first.pointer}
            _LOG.warning(
                "the sync file is broken, nothing is changed", **facts, **place, problem=first.detail, problems=count
            )
        else:
            change = status.last_change
            counts = {name: getattr(change, name) for name in ("created", "updated", "deleted", "unchanged")}
            _LOG.info("the sync file is applied", **facts, **counts)
            if status.conflicts:
                _LOG.warning("schedules of the API have names of the sync file", names=listed(status.conflicts))

    def _problems(self, sync: Sync) -> Iterator[FileProblem]:
        """Yield why the job of a sync could never run, at the image that is the reason."""
        try:
            self._schedules.require_possible(sync.definition)
        except _IMPOSSIBLE as error:
            yield sync.problem(f"{error.message}. {error.hint}", *error.where)


def _update(schedules: Schedules, update: Update) -> None:
    schedules.replace(update.schedule, update.definition)


def _delete(schedules: Schedules, schedule: Schedule) -> None:
    schedules.delete(schedule, version=schedule.version)


def _is_done(name: str, change: Callable[[], object]) -> bool:
    """Make a change, and return whether it could be made."""
    try:
        change()
    except (ScheduleChanged, ScheduleExists, ScheduleUnknown) as error:
        _LOG.info("a schedule was changed by somebody else", schedule=name, code=error.code)
        return False
    return True
