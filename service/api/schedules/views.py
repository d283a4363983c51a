"""``/v1/schedules``: create, read, change, delete, run and preview schedules, and read their runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Final

from flask import Response, jsonify, request

from mirror.errors import (
    DocumentMalformed,
    RunUnknown,
    ScheduleBusy,
    ScheduleChanged,
    ScheduleExists,
    ScheduleFromFile,
    ScheduleUnknown,
)
from mirror.records.schedule import Schedule, ScheduleDefinition, Timetable
from mirror.records.schedule_schema import SCHEDULE_ID, dump_definition
from mirror.records.schedules import ScheduleOutline
from mirror.schedules.definition import ScheduleRequestSchema
from mirror.schedules.health import health_state
from mirror.schedules.yaml_reader import MOST_BYTES
from service.api.schedules.document import preview_document, run_documents, schedule_document
from service.api.schedules.drift import DriftQuery, DriftSchema, PendingDriftSchema, wait_for_drift
from service.api.schedules.imports import export_text, import_document
from service.api.schedules.schema import (
    ImportQuery,
    ImportSchema,
    PreviewQuery,
    PreviewRequestSchema,
    PreviewSchema,
    RunNowSchema,
    RunPageSchema,
    RunSchema,
    SchedulePageSchema,
    SchedulePatchSchema,
    ScheduleQuery,
    ScheduleSchema,
)
from service.core import core
from service.http.blueprint import api_blueprint, header, refuses
from service.http.bodies import load_document, merge_patch
from service.http.pagination import NoParameters, PageQuery, next_page
from service.http.preconditions import etag, precondition
from service.http.problems import BodyMalformed, FieldProblem, RequestInvalid

SCHEDULES: Final = api_blueprint(
    "schedules", "Jobs that are repeated by a timetable. `{name}` is the name of a schedule, or its id."
)
Answer = tuple[dict[str, Any], int, dict[str, str]]
_SCHEDULE: Final = "/v1/schedules/<name>"
_EXAMPLE: Final = {
    "name": "nightly-alpine",
    "cron": "30 2 * * *",
    "time_zone": "Europe/Paris",
    "job": {"source": {"repository": "docker.io/library/alpine"}, "tags": {"semver": ">=3.18"}},
}
_ETAG: Final = {"ETag": header("The version of the definition, for If-Match.", '"3"')}
_LOCATION: Final = {
    "Location": header(
        "The schedule or the run.", "http://127.0.0.1:8080/v1/schedules/schedule_01JDB2V3R8Y0N5Q7T9W1X3Z5B6"
    )
}
_NEXT_PAGE: Final = {"Link": header("The next page, RFC 8288.", '<…>; rel="next"')}
_YAML: Final = "application/yaml"
_CONFIGURATION: Final = {
    "required": True,
    "description": "The text of the configuration, whatever its `Content-Type` is.",
    "content": {
        _YAML: {"schema": {"type": "object"}},
        "text/plain": {"schema": {"type": "string"}},
        "application/json": {"schema": {"type": "object"}},
    },
}
_LOOK_AGAIN: Final = "2"
_PENDING_DRIFT: Final[Mapping[str, Any]] = {
    "description": "Workers are making the report. Ask again.",
    "headers": {"Retry-After": header("Seconds after which to ask again.", _LOOK_AGAIN)},
}
_ATTEMPTS: Final = 5
"""How often a change is tried again that another change was faster than."""


@SCHEDULES.post("/v1/schedules")
@SCHEDULES.arguments(NoParameters, location="query")
@SCHEDULES.arguments(ScheduleRequestSchema, example=_EXAMPLE)
@SCHEDULES.response(201, ScheduleSchema, headers={**_ETAG, **_LOCATION})
@refuses(SCHEDULES, 400, 401, 409, 413, 415, 422, 503)
def create_schedule(_: dict[str, Any], definition: ScheduleDefinition) -> Answer:
    """Create a schedule.

    Its `job` is the body of `POST /v1/jobs`, and is checked as that: what could never work is refused now.
    """
    return _changed(core().schedules.create(definition), 201)


@SCHEDULES.get("/v1/schedules")
@SCHEDULES.arguments(ScheduleQuery, location="query")
@SCHEDULES.response(200, SchedulePageSchema, headers=_NEXT_PAGE)
@refuses(SCHEDULES, 401, 422, 503)
def list_schedules(query: dict[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """List schedules, the oldest first, each with its health and its next run.

    A page may be short, and still have a `next`: with a filter, or if its jobs name thousands of images.
    """
    label, state, limit = (query[name] for name in ("label", "state", "limit"))
    name, _, value = (label or "").partition("=")
    now = core().schedules.now()

    def wanted(outline: ScheduleOutline) -> bool:
        has_label = label is None or outline.labels.get(name) == value
        return has_label and state in (None, health_state(outline, now))

    is_filtered = label is not None or state is not None
    found, following = core().schedules.store.page(
        limit=limit, after=query["cursor"], wanted=wanted if is_filtered else None
    )
    page = {"items": [schedule_document(schedule, now) for schedule in found], "next": following}
    return page, next_page("schedules.list_schedules", label=label, state=state, limit=limit, after=following)


@SCHEDULES.get(_SCHEDULE)
@SCHEDULES.response(200, ScheduleSchema, headers=_ETAG)
@SCHEDULES.alt_response(304, description="The definition has the version that If-None-Match names.")
@refuses(SCHEDULES, 401, 404, 503)
def read_schedule(name: str) -> Response | Answer:
    """Read one schedule.

    The ETag is the version of the definition. `health` and `next_run` change without it, so a client that watches them
    sends no `If-None-Match`.
    """
    schedule = core().schedules.store.schedule(name)
    if request.if_none_match.contains_weak(str(schedule.version)):
        return Response(status=304, headers={"ETag": etag(schedule.version)})
    return _shown(schedule, 200)


@SCHEDULES.put(_SCHEDULE)
@SCHEDULES.arguments(NoParameters, location="query")
@SCHEDULES.arguments(ScheduleRequestSchema, example=_EXAMPLE)
@SCHEDULES.response(200, ScheduleSchema, description="The definition was replaced.", headers=_ETAG)
@SCHEDULES.alt_response(201, schema=ScheduleSchema, description="The schedule is new.", headers={**_ETAG, **_LOCATION})
@refuses(SCHEDULES, 400, 401, 404, 409, 412, 413, 415, 422, 503)
def put_schedule(_: dict[str, Any], definition: ScheduleDefinition, name: str) -> Answer:
    """Create a schedule, or replace its definition. Its runs and its health stay.

    The body has the name of the URL. With the id in the URL it may have another one, and then the schedule is renamed.

    `If-Match: "<version>"` replaces only that version, `If-None-Match: *` only creates. An equal definition changes
    nothing.
    """
    is_id = SCHEDULE_ID.fullmatch(name) is not None
    if not is_id and definition.name != name:
        problem = FieldProblem(
            "It differs from the name in the URL. To rename, use the id in the URL.", pointer="/name"
        )
        raise RequestInvalid([problem])
    for _attempt in range(_ATTEMPTS):
        try:
            return _changed(_replace(name, lambda _: definition), 200)
        except ScheduleUnknown:
            if is_id:
                raise
        if not precondition(request)(None):
            raise ScheduleChanged(name, None, exists=False)
        try:
            return _changed(core().schedules.create(definition), 201)
        except ScheduleExists:  # another request was faster, so its schedule is replaced
            continue
    raise ScheduleBusy(name)


@SCHEDULES.patch(_SCHEDULE)
@SCHEDULES.arguments(NoParameters, location="query")
@SCHEDULES.arguments(SchedulePatchSchema, content_type="application/merge-patch+json", example={"enabled": False})
@SCHEDULES.response(200, ScheduleSchema, headers=_ETAG)
@refuses(SCHEDULES, 400, 401, 404, 409, 412, 413, 415, 422, 503)
def patch_schedule(_: dict[str, Any], patch: dict[str, Any], name: str) -> Answer:
    """Change some fields of a schedule: JSON Merge Patch, RFC 7396.

    `null` resets a field to its default. Objects are merged, lists are replaced. To go from `cron` to `every`, send
    `{"cron": null, "every": "6h"}`. `If-Match` works as for PUT.
    """

    def patched(current: Schedule) -> ScheduleDefinition:
        try:
            document = merge_patch(dump_definition(current.definition), patch)
        except RecursionError:
            raise BodyMalformed("it is nested too deeply") from None
        definition: ScheduleDefinition = load_document(ScheduleRequestSchema(), document)
        return definition

    return _changed(_replace(name, patched), 200)


@SCHEDULES.delete(_SCHEDULE)
@SCHEDULES.arguments(NoParameters, location="query")
@SCHEDULES.response(204, description="The schedule and its runs are gone. A job that is under way goes on.")
@refuses(SCHEDULES, 401, 404, 409, 412, 422, 503)
def delete_schedule(_: dict[str, Any], name: str) -> Response:
    """Delete a schedule. Its images and its jobs stay. `If-Match` works as for PUT."""
    for _attempt in range(_ATTEMPTS):
        current = _changeable(name)
        try:
            core().schedules.delete(current, version=current.version)
        except ScheduleChanged:
            continue
        return Response(status=204)
    raise ScheduleBusy(name)


@SCHEDULES.post(f"{_SCHEDULE}/run")
@SCHEDULES.arguments(NoParameters, location="query")
@SCHEDULES.arguments(RunNowSchema, required=False)
@SCHEDULES.response(202, RunSchema, headers=_LOCATION)
@refuses(SCHEDULES, 400, 401, 404, 409, 413, 415, 422, 503)
def run_schedule(_: dict[str, Any], body: dict[str, Any], name: str) -> Answer:
    """Run a schedule now, also one that is disabled.

    While its last run goes on, `overlap` decides: `skip` refuses (409). With `queue` and `cancel_running` the new run
    is `queued`.
    """
    [document] = run_documents([core().schedules.run_now(name, ignores_brake=body["ignore_brake"])])
    return document, 202, {"Location": document["links"]["self"]}


@SCHEDULES.get(f"{_SCHEDULE}/runs")
@SCHEDULES.arguments(PageQuery, location="query")
@SCHEDULES.response(200, RunPageSchema, headers=_NEXT_PAGE)
@refuses(SCHEDULES, 401, 404, 422, 503)
def list_runs(query: dict[str, Any], name: str) -> tuple[dict[str, Any], dict[str, str]]:
    """List the last hundred runs of a schedule, the newest first, each with its job."""
    schedule, limit = core().schedules.store.schedule(name), query["limit"]
    found = core().schedules.runs.runs(schedule, limit=limit + 1, before=query["cursor"])
    following = found[limit - 1].id if len(found) > limit else None
    page = {"items": run_documents(found[:limit]), "next": following}
    return page, next_page("schedules.list_runs", name=schedule.id, limit=limit, after=following)


@SCHEDULES.get(f"{_SCHEDULE}/runs/<run_id>")
@SCHEDULES.response(200, RunSchema)
@refuses(SCHEDULES, 401, 404, 503)
def read_run(name: str, run_id: str) -> dict[str, Any]:
    """Read one run of a schedule, with its job."""
    schedule, run = core().schedules.store.schedule(name), core().schedules.runs.run(run_id)
    if run.schedule != schedule.id:
        raise RunUnknown(run_id)
    return run_documents([run])[0]


@SCHEDULES.get(f"{_SCHEDULE}/preview")
@SCHEDULES.arguments(PreviewQuery, location="query")
@SCHEDULES.response(200, PreviewSchema)
@refuses(SCHEDULES, 401, 404, 422, 503)
def preview_schedule(query: dict[str, Any], name: str) -> dict[str, Any]:
    """Show the next times of a schedule, as if it were enabled."""
    schedule = core().schedules.store.schedule(name)
    timetable = schedule.definition.timetable
    times = core().schedules.preview(timetable, schedule.created_at, query["n"])
    return preview_document(timetable, times, schedule.id)


@SCHEDULES.get(f"{_SCHEDULE}/drift")
@SCHEDULES.arguments(DriftQuery, location="query")
@SCHEDULES.response(200, DriftSchema)
@SCHEDULES.alt_response(202, schema=PendingDriftSchema, **_PENDING_DRIFT)
@refuses(SCHEDULES, 401, 404, 422, 503)
def read_drift(query: dict[str, Any], name: str) -> Response | dict[str, Any]:
    """Say what a run of the schedule would change now.

    The first request starts a plan, which workers make. The report of the same version of the schedule is returned
    again while it is younger than `max_age`. Nothing is changed, and no listing of a report counts for a deletion.
    """
    found = wait_for_drift(core().schedules.store.schedule(name), query)
    if found is not None:
        return found
    response = jsonify({"state": "planning"})
    response.status_code, response.headers["Retry-After"] = 202, _LOOK_AGAIN
    return response


@SCHEDULES.post("/v1/schedules/preview")
@SCHEDULES.arguments(PreviewQuery, location="query")
@SCHEDULES.arguments(PreviewRequestSchema, example={"cron": "30 2 * * *", "time_zone": "Europe/Paris"})
@SCHEDULES.response(200, PreviewSchema)
@refuses(SCHEDULES, 400, 401, 413, 415, 422, 503)
def preview_times(query: dict[str, Any], timetable: Timetable) -> dict[str, Any]:
    """Show the next times of a schedule that is not stored. A schedule with `every` counts from now."""
    return preview_document(timetable, core().schedules.preview(timetable, core().schedules.now(), query["n"]), None)


@SCHEDULES.post("/v1/schedules/import")
@SCHEDULES.arguments(ImportQuery, location="query")
@SCHEDULES.doc(requestBody=_CONFIGURATION)
@SCHEDULES.response(200, ImportSchema)
@refuses(SCHEDULES, 400, 401, 413, 422, 503)
def import_schedules(query: dict[str, Any]) -> dict[str, Any]:
    """Make schedules of the configuration of another tool.

    Schedules that exist stay as they are. What cannot be honoured is listed with its line. A text that cannot be read
    at all is refused, and nothing is created. Credentials are never imported.
    """
    request.max_content_length = MOST_BYTES
    try:
        text = request.get_data(cache=False).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise DocumentMalformed("The text is not UTF-8") from None
    return import_document(query["format"], text, query["timetable"], is_dry_run=query["dry_run"])


@SCHEDULES.get("/v1/schedules/export")
@SCHEDULES.arguments(NoParameters, location="query")
@SCHEDULES.response(200, description="The text of a `mirror.yaml`.")
@SCHEDULES.doc(responses={"200": {"content": {_YAML: {"schema": {"type": "object"}}}}})
@refuses(SCHEDULES, 401, 422, 503)
def export_schedules(_: dict[str, Any]) -> Response:
    """Write all schedules as a `mirror.yaml`, those of the API and those of a file, sorted by name."""
    headers = {"Content-Disposition": 'attachment; filename="mirror.yaml"'}
    return Response(export_text(), headers=headers, content_type=_YAML)


def _replace(name: str, edit: Callable[[Schedule], ScheduleDefinition]) -> Schedule:
    """Replace the definition of a schedule by what *edit* makes of it. If another change is faster, do it again."""
    for _attempt in range(_ATTEMPTS):
        current = _changeable(name)
        definition = edit(current)
        try:
            return core().schedules.replace(current, definition)
        except ScheduleChanged:
            continue
    raise ScheduleBusy(name)


def _changeable(name: str) -> Schedule:
    """Return a schedule that the request may change. Raises ScheduleFromFile, or ScheduleChanged for its If-Match."""
    current = core().schedules.store.schedule(name)
    if current.origin == "file":
        raise ScheduleFromFile(current.definition.name)
    if not precondition(request)(current.version):
        raise ScheduleChanged(current.definition.name, str(current.version))
    return current


def _changed(schedule: Schedule, status: int) -> Answer:
    """Return the answer to a change, which may have started a run."""
    if schedule.definition.run_on_change:
        with suppress(ScheduleUnknown):  # deleted since
            schedule = core().schedules.store.schedule(schedule.id)
    return _shown(schedule, status)


def _shown(schedule: Schedule, status: int) -> Answer:
    document = schedule_document(schedule, core().schedules.now())
    location = {"Location": document["links"]["self"]} if status == 201 else {}
    return document, status, {"ETag": etag(schedule.version), **location}
