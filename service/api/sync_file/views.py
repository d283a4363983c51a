"""``/v1/sync-file``: compare a `mirror.yaml` with the schedules, apply it, and read what became of the last one."""

from __future__ import annotations

import hashlib
from typing import Any, Final

from flask import request

from mirror.errors import FileProblem, SyncFileInvalid, SyncFileWatched
from mirror.schedules.converge import Changes
from mirror.schedules.sync_file import SyncFile, decode, read_sync_file
from mirror.schedules.yaml_reader import MOST_BYTES
from service.api.sync_file.schema import SyncFileChangesSchema, SyncFileQuery, SyncFileSchema
from service.core import core
from service.http.blueprint import api_blueprint, refuses
from service.http.pagination import NoParameters

SYNC_FILE: Final = api_blueprint("sync-file", "Keep the schedules in a file: `mirror.yaml`.")
_BODY: Final = {
    "required": True,
    "description": "A `mirror.yaml`, whatever its `Content-Type` is. `/schemas/mirror.yaml.json` describes it.",
    "content": {"application/yaml": {"schema": {"type": "object"}}},
}
_OF_WORKERS: Final = (
    "Workers read credentials from the file that MIRROR_SYNC_FILE names, and from nothing else. Leave them out here."
)


@SYNC_FILE.get("/v1/sync-file")
@SYNC_FILE.arguments(NoParameters, location="query")
@SYNC_FILE.response(200, SyncFileSchema)
@refuses(SYNC_FILE, 401, 422, 503)
def read_status(_: dict[str, Any]) -> dict[str, Any]:
    """Return what became of the last sync file: its problems, its conflicts, and its last change."""
    return {"watched": core().converger.watched, "last": core().converger.status()}


@SYNC_FILE.put("/v1/sync-file")
@SYNC_FILE.arguments(SyncFileQuery, location="query")
@SYNC_FILE.doc(requestBody=_BODY)
@SYNC_FILE.response(200, SyncFileChangesSchema)
@refuses(SYNC_FILE, 401, 409, 413, 422, 503)
def put_sync_file(query: dict[str, Any]) -> dict[str, Any]:
    """Make the schedules what a file says: all of it, or nothing if any part of it is wrong.

    Schedules that a file has made are created, updated and deleted. Those of the API stay as they are. With
    `dry_run=true` nothing is changed. While the schedulers follow a file, only a dry run is possible.
    """
    is_dry_run, converger = query["dry_run"], core().converger
    if not is_dry_run and (watched := converger.watched):
        raise SyncFileWatched(watched)
    request.max_content_length = MOST_BYTES
    content = request.get_data(cache=False)
    file = read_sync_file(decode(content))
    if not is_dry_run:
        _require_no_credentials(file)
    converger.require_possible(file)
    if is_dry_run:
        return _document(converger.changes(file), is_dry_run=True)
    return _document(converger.converge(file, hashlib.sha256(content).hexdigest()), is_dry_run=False)


def _require_no_credentials(file: SyncFile) -> None:
    if file.credentials_line is not None:
        raise SyncFileInvalid([FileProblem(file.credentials_line, 1, _OF_WORKERS, "/credentials")])


def _document(changes: Changes, *, is_dry_run: bool) -> dict[str, Any]:
    return {
        "dry_run": is_dry_run,
        "create": [definition.name for definition in changes.create],
        "update": [{"name": update.name, "fields": update.fields} for update in changes.update],
        "delete": [schedule.definition.name for schedule in changes.delete],
        "unchanged": changes.unchanged,
        "conflicts": changes.conflicts,
    }
