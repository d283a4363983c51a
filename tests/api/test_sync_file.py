"""``/v1/sync-file``, its JSON Schema, and what the health says of the file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient

from mirror.records.schedule_schema import read_definition
from mirror.schedules.watch import SyncFileWatcher
from mirror.settings import Settings
from mirror.wiring import Core
from service.app import create_app
from service.core import Service
from tests.api.conftest import TOKEN

ALPINE = '{name: alpine, cron: "30 2 * * *", job: {source: {repository: alpine}}}'
REDIS = "{name: redis, every: 6h, job: {source: redis:7}}"
LOGIN = "credentials: {hub: {registry: docker.io, username: u, password: '${P}'}}\n"
BROKEN = f"version: 1\nsyncs:\n  - {REDIS.replace('6h', '6 hours')}\n  - {REDIS.replace('every', 'evry')}\n"


def file(*syncs: str) -> str:
    return f"version: 1\nsyncs: [{', '.join(syncs)}]\n"


def put(api: FlaskClient, text: str | bytes, *, dry_run: bool = False) -> tuple[int, dict[str, Any]]:
    query = "?dry_run=true" if dry_run else ""
    response = api.put(f"/v1/sync-file{query}", data=text, content_type="application/yaml")
    return response.status_code, response.get_json()


def names(core: Core) -> list[str]:
    return [schedule.definition.name for schedule in core.schedules.store.all()]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "mirror.yaml"


@pytest.fixture
def watching(api_settings: Settings, service: Service, path: Path) -> Iterator[FlaskClient]:
    """A client of a service whose schedulers follow a file."""
    other = Service.connect(replace(api_settings, sync_file=path))
    client = create_app(other).test_client()
    client.environ_base["HTTP_AUTHORIZATION"] = f"Bearer {TOKEN}"
    yield client
    other.close()


def follow(core: Core, path: Path, text: str) -> None:
    path.write_text(text)
    watcher = SyncFileWatcher(path, core.converger)
    for _ in range(2):
        watcher.run(lambda: True)


def test_a_dry_run_says_what_would_change_and_a_request_changes_it(api: FlaskClient, core: Core) -> None:
    expected = {"create": ["alpine", "redis"], "update": [], "delete": [], "unchanged": 0, "conflicts": []}
    assert put(api, file(ALPINE, REDIS), dry_run=True) == (200, {**expected, "dry_run": True})
    assert names(core) == []
    assert put(api, file(ALPINE, REDIS)) == (200, {**expected, "dry_run": False})
    assert sorted(names(core)) == ["alpine", "redis"]
    core.schedules.create(read_definition({"name": "mine", "every": "1h", "job": {"source": "redis:7"}}))
    status, found = put(api, file(ALPINE.replace("30 2", "45 3"), REDIS.replace("name: redis", "name: mine")))
    assert (status, found["create"], found["delete"], found["conflicts"]) == (200, [], ["redis"], ["mine"])
    assert found["update"] == [{"name": "alpine", "fields": ["cron"]}]
    last = api.get("/v1/sync-file").get_json()
    assert (last["watched"], last["last"]["state"], last["last"]["conflicts"]) == (None, "ok", ["mine"])
    assert all(moment.endswith("Z") for moment in (last["last"]["checked_at"], last["last"]["last_change"]["at"]))
    assert {name: last["last"]["last_change"][name] for name in ("created", "updated", "deleted")} == {
        "created": 0,
        "updated": 1,
        "deleted": 1,
    }


def test_before_the_first_file_there_is_nothing_to_show(api: FlaskClient) -> None:
    assert api.get("/v1/sync-file").get_json() == {"watched": None, "last": None}


@pytest.mark.parametrize("dry_run", [True, False])
def test_a_broken_file_changes_nothing_and_every_problem_has_its_place(
    api: FlaskClient, core: Core, dry_run: bool
) -> None:
    put(api, file(ALPINE))
    status, found = put(api, BROKEN, dry_run=dry_run)
    assert (status, found["code"], names(core)) == (422, "FILE_INVALID", ["alpine"])
    assert [(one["line"], one["column"], one["pointer"]) for one in found["errors"]] == [
        (3, 19, "/syncs/0/every"),
        (4, 6, "/syncs/1/name"),
        (4, 19, "/syncs/1/evry"),
    ]
    status, found = put(api, file(REDIS.replace("source: redis:7", "source: redis:7, target: quay.io/a")))
    assert (status, found["code"]) == (422, "FILE_INVALID")
    assert "is reserved for images from 'quay.io'" in found["errors"][0]["detail"]


def test_what_is_no_sync_file_is_refused(api: FlaskClient) -> None:
    for body in (b"", b"\xff", b"a: [", b"[]", b"null", b"{}", b"&a [*a]", b"a: !!python/object:os.x"):
        status, found = put(api, body)
        assert (status, found["code"]) == (422, "FILE_INVALID"), body
        assert found["errors"][0]["line"] >= 1


def test_a_body_has_at_most_a_mebibyte(api: FlaskClient) -> None:
    status, found = put(api, file() + "#" * 2**20)
    assert (status, found["code"]) == (413, "REQUEST_TOO_LARGE")
    assert put(api, file() + "#" * 900_000, dry_run=True)[0] == 200


def test_credentials_are_checked_and_never_applied(api: FlaskClient, core: Core) -> None:
    assert put(api, file(REDIS) + LOGIN, dry_run=True)[0] == 200
    status, found = put(api, file(REDIS) + LOGIN)
    assert (status, names(core)) == (422, [])
    assert (found["errors"][0]["pointer"], found["errors"][0]["line"]) == ("/credentials", 3)


def test_while_a_file_is_followed_only_a_dry_run_is_possible(
    watching: FlaskClient, api: FlaskClient, core: Core, path: Path
) -> None:
    assert put(watching, file())[1]["code"] == "SYNC_FILE_WATCHED"
    follow(core, path, file(ALPINE))
    for client in (watching, api):  # the second service does not have the setting, and a scheduler has it
        status, found = put(client, file())
        assert (status, found["code"]) == (409, "SYNC_FILE_WATCHED")
        assert put(client, file(), dry_run=True)[1]["delete"] == ["alpine"]
    assert names(core) == ["alpine"]


def sync_file_check(client: FlaskClient) -> dict[str, Any]:
    response = client.get("/readyz?verbose")
    assert response.status_code == 200
    found: dict[str, Any] = response.get_json()["checks"]["sync_file"]
    return found


def test_readiness_shows_the_place_of_a_problem_and_no_more(watching: FlaskClient, core: Core, path: Path) -> None:
    follow(core, path, BROKEN)
    assert sync_file_check(watching) == {
        "status": "ok",
        "warnings": [
            "mirror.yaml is broken at line 3, column 19 and 2 more, nothing is changed; see GET /v1/sync-file",
        ],
    }


def test_readiness_warns_of_a_file_that_nobody_reads(watching: FlaskClient, api: FlaskClient) -> None:
    assert sync_file_check(watching)["warnings"] == ["no scheduler has read mirror.yaml yet"]
    assert sync_file_check(api) == {"status": "ok", "warnings": []}


def test_the_json_schema_is_served_without_a_token(api_settings: Settings, anyone: FlaskClient) -> None:
    response = anyone.get("/schemas/mirror.yaml.json")
    assert (response.status_code, response.content_type) == (200, "application/schema+json")
    assert json.loads(response.data)["$id"] == f"{api_settings.public_url}/schemas/mirror.yaml.json"
    assert anyone.get("/v1/sync-file").status_code == 401
