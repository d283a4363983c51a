from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from mirror.settings import Settings
from mirror.storage.s3 import S3Clients
from mirror.wiring import Core, build
from service.api.health import readiness
from service.app import create_app
from service.core import Service
from service.http.auth import RequestAuthenticator, admin_token
from tests.api.live_service import LiveService
from tests.api.seeded_catalog import SeededCatalog
from tests.api.tls_service import TlsService
from tests.conftest import SettingsForServer, bucket_for
from tests.support.harness import mark_built
from tests.support.servers import RcloneS3, ValkeyServer

TOKEN = secrets.token_hex(16)


@pytest.fixture(autouse=True)
def patient_readiness(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the checks of /readyz a minute: on a loaded machine, two seconds are too few now and then."""
    monkeypatch.setattr(readiness, "PATIENCE", 60.0)


@pytest.fixture
def api_settings(
    rclone_s3: RcloneS3, s3_prefix: str, redis_url: str, settings_for_server: SettingsForServer
) -> Settings:
    """Settings of an API on loopback that streams its blobs. A test that needs others overrides this."""
    return settings_for_server(
        rclone_s3,
        s3_prefix,
        redis_url=redis_url,
        admin_token=TOKEN,
        serve_redirect="false",
        public_url="https://mirror.example:8443",
    )


@pytest.fixture
def service(api_settings: Settings, s3_clients: dict[str, S3Clients]) -> Iterator[Service]:
    """Over an empty bucket and a Redis whose index is built, and where a worker and a scheduler are alive."""
    service = Service.of(build(api_settings, bucket=bucket_for(api_settings, s3_clients)))
    mark_built(service.core.redis)
    service.core.processes.beat("worker", "idle", name="host:1")
    service.core.processes.beat("scheduler", "leader", name="host:2")
    yield service
    service.close()


@pytest.fixture
def core(service: Service) -> Core:
    return service.core


@pytest.fixture
def mirror(core: Core) -> SeededCatalog:
    return SeededCatalog(core)


@pytest.fixture
def app(service: Service) -> Flask:
    return create_app(service)


@pytest.fixture
def anyone(app: Flask) -> FlaskClient:
    """A client without a token."""
    return app.test_client()


@pytest.fixture
def api(app: Flask) -> FlaskClient:
    """A client with the admin token."""
    client = app.test_client()
    client.environ_base["HTTP_AUTHORIZATION"] = f"Bearer {TOKEN}"
    return client


@pytest.fixture(scope="session")
def live_process(
    valkey: ValkeyServer, rclone_s3: RcloneS3, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LiveService]:
    with LiveService(tmp_path_factory.mktemp("service"), valkey, rclone_s3, "live") as service:
        yield service


@pytest.fixture
def live(live_process: LiveService, redis_url: str) -> LiveService:
    """A running service whose Redis is empty. Its bucket is shared: give every test repositories of its own."""
    return live_process


@pytest.fixture
def live_mirror(
    live: LiveService,
    rclone_s3: RcloneS3,
    redis_url: str,
    settings_for_server: SettingsForServer,
    s3_clients: dict[str, S3Clients],
) -> Iterator[SeededCatalog]:
    """What `live` serves."""
    settings = settings_for_server(rclone_s3, "live", redis_url=redis_url, admin_token=live.token)
    core = build(settings, bucket=bucket_for(settings, s3_clients))
    mark_built(core.redis)
    yield SeededCatalog(core)
    core.close()


@pytest.fixture(scope="module")
def tls_service_class() -> type[TlsService]:
    """The class of the service that `tls` is. A file that needs another overrides this."""
    return TlsService


@pytest.fixture(scope="module")
def shared_tls(
    tls_service_class: type[TlsService],
    valkey: ValkeyServer,
    rclone_s3: RcloneS3,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[TlsService]:
    with tls_service_class(tmp_path_factory.mktemp("tls"), valkey, rclone_s3) as service:
        yield service


@pytest.fixture
def tls(shared_tls: TlsService) -> TlsService:
    """A service that all tests of a file share, so its certificate stays. Give every test repositories of its own."""
    shared_tls.begin_test()
    return shared_tls


@pytest.fixture
def own_tls(valkey: ValkeyServer, rclone_s3: RcloneS3, tmp_path: Path) -> Iterator[TlsService]:
    """A service whose certificate a test may replace, and which it may end."""
    with TlsService(tmp_path, valkey, rclone_s3) as service:
        yield service


def with_settings(service: Service, **fields: Any) -> Service:
    """The same service with other settings."""
    changed = replace(service.core.settings, **fields)
    auth = RequestAuthenticator(changed, admin_token(changed))
    return replace(service, core=replace(service.core, settings=changed), auth=auth)
