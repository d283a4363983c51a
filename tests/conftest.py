"""Real servers for tests: one of each per session, and isolation per test by an own prefix or an empty database."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from mirror.settings import Settings
from mirror.storage.bucket import Bucket
from tests.servers import DockerRegistry, RcloneS3, S3Server, ValkeyServer, VersityGateway

MakeSettings = Callable[..., Settings]


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


@pytest.fixture(scope="session")
def rclone_s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RcloneS3]:
    with RcloneS3(tmp_path_factory.mktemp("rclone")) as server:
        yield server


@pytest.fixture(scope="session")
def versitygw(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VersityGateway]:
    with VersityGateway(tmp_path_factory.mktemp("versitygw")) as server:
        yield server


@pytest.fixture(params=["rclone_s3", pytest.param("versitygw", marks=pytest.mark.versitygw)])
def s3_server(request: pytest.FixtureRequest) -> S3Server:
    """Each S3 server in turn."""
    server = request.getfixturevalue(request.param)
    assert isinstance(server, S3Server)
    return server


@pytest.fixture
def s3_prefix() -> str:
    """A prefix that no other test uses."""
    return f"tests/{secrets.token_hex(8)}"


@pytest.fixture
def s3_settings(
    s3_server: S3Server, s3_prefix: str, settings: MakeSettings, monkeypatch: pytest.MonkeyPatch
) -> Settings:
    """Settings for the bucket of `s3_server` under `s3_prefix`; the credentials stand in this process's environment."""
    return settings_for(s3_server, s3_prefix, settings, monkeypatch)


def settings_for(server: S3Server, prefix: str, settings: MakeSettings, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Settings for the bucket of *server*, with everything boto3 may find elsewhere put out of its way."""
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)
    for name, value in server.settings_env(prefix).items():
        monkeypatch.setenv(name, value)
    return settings(s3_endpoint=server.url, s3_bucket=server.bucket, s3_region="us-east-1", s3_prefix=prefix)


@pytest.fixture
def bucket(s3_settings: Settings) -> Iterator[Bucket]:
    """An empty bucket, on each S3 server in turn."""
    opened = Bucket.from_settings(s3_settings)
    yield opened
    opened.close()


@pytest.fixture(scope="session")
def docker_registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DockerRegistry]:
    """A registry to mirror from, with its images in files. It is shared: give every test repositories of its own."""
    with DockerRegistry(tmp_path_factory.mktemp("registry")) as server:
        yield server
