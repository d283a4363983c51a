from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from flask.testing import FlaskClient

import mirror as release
from mirror.settings import Settings
from mirror.wiring import Core
from service.app import create_app
from service.core import Service
from tests.api.conftest import TOKEN
from tests.support.servers import ValkeyServer
from tests.support.servers.process import free_port


@pytest.fixture
def own_valkey(tmp_path: Path) -> Iterator[ValkeyServer]:
    with ValkeyServer(tmp_path) as server:
        yield server


@pytest.fixture
def alone(settings_without_stores: Settings) -> Iterator[FlaskClient]:
    """An API that can reach neither Redis nor S3."""
    service = Service.connect(settings_without_stores)
    yield create_app(service).test_client()
    service.close()


@pytest.fixture
def settings_without_stores(api_settings: Settings) -> Settings:
    nowhere = f"127.0.0.1:{free_port()}"
    return replace(api_settings, redis_url=f"redis://:redis-secret@{nowhere}/0", s3_endpoint=f"http://{nowhere}")


def test_a_mirror_that_works_is_ready(anyone: FlaskClient) -> None:
    response = anyone.get("/readyz")
    assert response.status_code == 200
    parts = ("redis", "s3", "catalog", "workers", "scheduler", "schedules", "sync_file")
    assert response.get_json() == {"status": "ok", "checks": {part: {"status": "ok"} for part in parts}}


def test_verbose_readiness_warns_of_what_could_go_wrong(anyone: FlaskClient, core: Core) -> None:
    core.redis.client.flushdb()
    checks = anyone.get("/readyz?verbose").get_json()["checks"]
    assert "appendonly" in checks["redis"]["warnings"][0]
    assert "rebuilt" in checks["catalog"]["warnings"][0]
    assert anyone.get("/readyz").status_code == 200


def test_without_its_stores_the_mirror_lives_and_is_not_ready(alone: FlaskClient) -> None:
    assert alone.get("/livez").get_json() == {"status": "ok"}
    response = alone.get("/readyz?verbose")
    assert response.status_code == 503
    checks = response.get_json()["checks"]
    assert [checks[name]["status"] for name in ("redis", "s3")] == ["failed", "failed"]
    assert all(checks[name]["detail"] for name in ("redis", "s3"))
    assert "redis-secret" not in response.get_data(as_text=True)
    assert all(set(check) == {"status"} for check in alone.get("/readyz").get_json()["checks"].values())


@pytest.mark.parametrize(
    "path", ["/v1/jobs", "/v1/images", "/v1/repositories", "/v1/images/a:1", "/v2/_catalog", "/v2/a/manifests/1"]
)
def test_without_its_stores_every_answer_is_a_clean_503(settings_without_stores: Settings, path: str) -> None:
    service = Service.connect(settings_without_stores)
    headers = {"Authorization": f"Bearer {TOKEN}"}
    response = create_app(service).test_client().get(path, headers=headers)
    service.close()
    assert response.status_code == 503
    assert int(response.headers["Retry-After"]) > 0
    assert "redis-secret" not in response.get_data(as_text=True)


def test_readiness_follows_redis(api_settings: Settings, own_valkey: ValkeyServer) -> None:
    service = Service.connect(replace(api_settings, redis_url=own_valkey.url))
    client = create_app(service).test_client()
    assert client.get("/readyz").status_code == 200
    own_valkey.kill()
    while client.get("/readyz").status_code == 200:  # for the second that an answer stays fresh
        pass
    assert client.get("/readyz").get_json()["checks"]["redis"] == {"status": "failed"}
    service.close()


def test_the_version_is_told(anyone: FlaskClient) -> None:
    assert anyone.get("/version").get_json() == {"version": release.__version__, "api": "v1"}
