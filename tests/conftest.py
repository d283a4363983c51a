"""Real servers for tests: one of each per session, and isolation per test by an own prefix or an empty database."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import hypothesis
import pytest
import redis

from mirror.redis.client import Redis
from mirror.settings import Settings
from mirror.storage.bucket import Bucket
from mirror.storage.s3 import S3Clients
from tests.support.run_order import run_order
from tests.support.servers import REGION, DockerRegistry, RcloneS3, S3Server, ValkeyServer, VersityGateway

hypothesis.settings.register_profile("no timed assertions", deadline=None)
hypothesis.settings.load_profile("no timed assertions")

MakeSettings = Callable[..., Settings]
SettingsForServer = Callable[..., Settings]
S3_SERVERS: Final = ("rclone_s3", pytest.param("versitygw", marks=pytest.mark.versitygw))
on_both_s3_servers = pytest.mark.parametrize("s3_server", S3_SERVERS, indirect=True)
"""Marks a test about the bucket in a file whose other tests use one S3 server."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Order the files of a run of several processes, each of which takes the next file when it is free."""
    if hasattr(config, "workerinput"):
        place = {path: number for number, path in enumerate(run_order(_file_of(item) for item in items))}
        items.sort(key=lambda item: place[_file_of(item)])


def _file_of(item: pytest.Item) -> str:
    return item.nodeid.partition("::")[0]


@pytest.fixture
def settings(tmp_path: Path) -> MakeSettings:
    """Makes `Settings` from keyword arguments, with its data under the test's own directory."""

    def make(**fields: Any) -> Settings:
        return Settings(**{"data_dir": tmp_path / "data", **fields})

    return make


@pytest.fixture(scope="session")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeyServer]:
    with ValkeyServer(tmp_path_factory.mktemp("valkey")) as server:
        yield server


@pytest.fixture
def redis_url(valkey: ValkeyServer) -> str:
    """The URL of a Valkey that holds nothing."""
    with redis.Redis.from_url(valkey.url) as client:
        client.flushall()
    return valkey.url


@pytest.fixture(name="redis")
def redis_client(redis_url: str) -> Iterator[Redis]:
    """Our client of a Valkey that holds nothing."""
    client = Redis.connect(redis_url)
    yield client
    client.close()


@pytest.fixture(scope="session")
def rclone_s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RcloneS3]:
    with RcloneS3(tmp_path_factory.mktemp("rclone")) as server:
        yield server


@pytest.fixture(scope="session")
def versitygw(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VersityGateway]:
    with VersityGateway(tmp_path_factory.mktemp("versitygw")) as server:
        yield server


@pytest.fixture(params=S3_SERVERS)
def s3_server(request: pytest.FixtureRequest) -> S3Server:
    """Each S3 server in turn.

    A file whose tests are not about the bucket overrides this, and uses one server.
    """
    return requested_s3_server(request)


def requested_s3_server(request: pytest.FixtureRequest) -> S3Server:
    """Return the S3 server of the fixture's parameter, or rclone if it has none."""
    server = request.getfixturevalue(getattr(request, "param", "rclone_s3"))
    assert isinstance(server, S3Server)
    return server


@pytest.fixture
def s3_prefix() -> str:
    """A prefix that no other test uses."""
    return f"tests/{secrets.token_hex(8)}"


@pytest.fixture
def settings_for_server(settings: MakeSettings, monkeypatch: pytest.MonkeyPatch) -> SettingsForServer:
    """Makes settings for the bucket of an S3 server, whose credentials it puts into this process's environment."""

    def make(server: S3Server, prefix: str, **fields: Any) -> Settings:
        for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
            monkeypatch.delenv(name, raising=False)
        for name, value in server.settings_env(prefix).items():
            monkeypatch.setenv(name, value)
        place = {"s3_endpoint": server.url, "s3_bucket": server.bucket, "s3_region": REGION, "s3_prefix": prefix}
        return settings(**place, **fields)

    return make


@pytest.fixture
def s3_settings(s3_server: S3Server, s3_prefix: str, settings_for_server: SettingsForServer) -> Settings:
    """Settings for the bucket of `s3_server` under `s3_prefix`."""
    return settings_for_server(s3_server, s3_prefix)


@pytest.fixture(scope="session")
def s3_clients() -> Iterator[dict[str, S3Clients]]:
    """boto3's clients by endpoint: they take 0.2 s to make, which most tests need not pay again."""
    made: dict[str, S3Clients] = {}
    yield made
    for clients in made.values():
        clients.close()


def bucket_for(settings: Settings, s3_clients: dict[str, S3Clients]) -> Bucket:
    endpoint = str(settings.s3_endpoint)
    clients = s3_clients.setdefault(endpoint, S3Clients(settings.s3_region, endpoint))
    return Bucket(clients, str(settings.s3_bucket), prefix=settings.s3_prefix)


@pytest.fixture
def bucket(s3_settings: Settings, s3_clients: dict[str, S3Clients]) -> Bucket:
    """An empty bucket, on each S3 server in turn."""
    return bucket_for(s3_settings, s3_clients)


@pytest.fixture
def versitygw_bucket(
    versitygw: VersityGateway,
    s3_prefix: str,
    settings_for_server: SettingsForServer,
    s3_clients: dict[str, S3Clients],
) -> Bucket:
    """An empty bucket on the strict S3, for what only that one proves."""
    return bucket_for(settings_for_server(versitygw, s3_prefix), s3_clients)


@pytest.fixture(scope="session")
def docker_registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DockerRegistry]:
    """A registry to mirror from, with its images in files. It is shared: give every test repositories of its own."""
    with DockerRegistry(tmp_path_factory.mktemp("registry")) as server:
        yield server
