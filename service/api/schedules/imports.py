"""Make schedules of the configuration of other tools, and write all schedules as one file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final, Literal

from mirror.errors import AddressNotAllowed, InvalidInput, ScheduleExists
from mirror.records.field_messages import pointer_of
from mirror.records.schedule import ScheduleDefinition, Timetable
from mirror.records.schedule_schema import dump_definition
from mirror.schedules.definition import ScheduleRequestSchema
from mirror.schedules.export import write_sync_file
from mirror.schedules.importers.document import Ignored, Imported
from mirror.schedules.importers.read import ImportFormat, read_import
from mirror.schedules.sync_file import read_sync_file
from service.core import core
from service.http.bodies import load_document
from service.http.problems import FieldProblem, RequestInvalid

_Format = Literal["mirror"] | ImportFormat
_CREDENTIALS: Final = (
    "Credentials are never imported. Workers read them from the file of MIRROR_SYNC_FILE or of MIRROR_DOCKER_CONFIG."
)
_SCHEMA: Final = ScheduleRequestSchema()
_DEFAULTS: Final = dump_definition(ScheduleDefinition("", Timetable(), {}))


def import_document(
    import_format: _Format, text: str, timetable: Mapping[str, Any], *, is_dry_run: bool
) -> dict[str, Any]:
    """Create the schedules that *text* describes, unless their names are taken. Return what became of each.

    *timetable* is for those without one. Raises DocumentMalformed or SyncFileInvalid for a text that cannot be read.
    """
    found = _sync_file(text) if import_format == "mirror" else read_import(import_format, text, timetable)
    return {
        "dry_run": is_dry_run,
        "schedules": list(_outcomes(found, is_dry_run=is_dry_run)),
        "ignored": found.ignored,
        "refused": found.refused,
        "notes": found.notes,
    }


def _sync_file(text: str) -> Imported:
    """Read the schedules of a `mirror.yaml`. They become those of the API."""
    file = read_sync_file(text)
    line = file.credentials_line
    ignored = () if line is None else (Ignored("credentials", line, _CREDENTIALS),)
    return Imported(tuple(dump_definition(sync.definition) for sync in file.syncs), ignored)


def export_text() -> str:
    """Return all schedules as a `mirror.yaml`. Fields that have their defaults are left out."""
    found = [dump_definition(schedule.definition) for schedule in core().schedules.store.all()]
    return write_sync_file(
        [{name: value for name, value in document.items() if value != _DEFAULTS[name]} for document in found]
    )


def _outcomes(found: Imported, *, is_dry_run: bool) -> Iterable[dict[str, Any]]:
    """Yield each schedule of the text with what became of it, or in a dry run would."""
    taken = {outline.name for outline in core().schedules.store.outlines()}
    for document in found.schedules:
        is_new = document["name"] not in taken
        outcome, problems = _created(document, is_dry_run=is_dry_run) if is_new else ("exists", ())
        yield {"name": document["name"], "outcome": outcome, "definition": document, "problems": problems}


def _created(document: Mapping[str, Any], *, is_dry_run: bool) -> tuple[str, tuple[FieldProblem, ...]]:
    schedules = core().schedules
    try:
        definition: ScheduleDefinition = load_document(_SCHEMA, document)
        if is_dry_run:
            schedules.require_possible(definition)
        else:
            schedules.create(definition)
    except RequestInvalid as error:
        return "invalid", error.problems
    except (InvalidInput, AddressNotAllowed) as error:
        return "invalid", (FieldProblem(f"{error.message}. {error.hint}", pointer=pointer_of(error.where)),)
    except ScheduleExists:
        return "exists", ()
    return "created", ()
