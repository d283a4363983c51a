from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from mirror.jobs.submit import Submitter
from mirror.queue import TaskQueue
from mirror.records.jobs import JobStore
from mirror.redis.client import Redis, open_client
from mirror.redis.failures import PATIENT
from mirror.storage.bucket import Bucket
from tests.conftest import MakeSettings, SettingsForServer
from tests.e2e.fleet import Fleet
from tests.support.fakes.registry import FakeRegistry
from tests.support.servers import RcloneS3, S3Server, ValkeyServer, VersityGateway

MakeFleet = Callable[..., Fleet]


@pytest.fixture
def make_fleet(
    tmp_path: Path, settings: MakeSettings, settings_for_server: SettingsForServer, s3_prefix: str
) -> Iterator[MakeFleet]:
    """Makes a fleet on an S3 server.

    Keyword arguments are further environment variables of its processes.
    """
    with ExitStack() as running:

        def make(s3: S3Server, **environment: str) -> Fleet:
            (tmp_path / "valkey").mkdir()
            registry = running.enter_context(FakeRegistry())
            valkey = running.enter_context(ValkeyServer(tmp_path / "valkey", append_only=True))
            redis = Redis.connect(valkey.url, retries=PATIENT)
            raw = open_client(valkey.url, retries=PATIENT, decode_responses=False)
            bucket = Bucket.from_settings(settings_for_server(s3, s3_prefix))
            for each in (redis, raw, bucket):
                running.callback(each.close)
            store = JobStore(redis)
            allowed = settings(allowed_networks=(ipaddress.ip_network("127.0.0.0/8"),))
            return Fleet(
                registry=registry,
                valkey=valkey,
                redis=redis,
                store=store,
                submitter=Submitter(store, TaskQueue(raw), allowed),
                bucket=bucket,
                environment={
                    **s3.settings_env(s3_prefix),
                    "MIRROR_REDIS_URL": valkey.url,
                    "MIRROR_INSECURE_REGISTRIES": registry.host,
                    "MIRROR_ALLOWED_NETWORKS": "127.0.0.0/8",
                    **environment,
                },
                logs=tmp_path,
            )

        yield make


@pytest.fixture
def fleet(make_fleet: MakeFleet, rclone_s3: RcloneS3) -> Fleet:
    return make_fleet(rclone_s3)


@pytest.fixture
def own_versitygw(tmp_path: Path) -> Iterator[VersityGateway]:
    """An S3 server that a test may kill. It keeps its open uploads over SIGKILL."""
    (tmp_path / "versitygw").mkdir()
    with VersityGateway(tmp_path / "versitygw") as server:
        yield server


@pytest.fixture
def own_rclone(tmp_path: Path) -> Iterator[RcloneS3]:
    """An S3 server that a test may kill. It loses its open uploads with SIGKILL."""
    (tmp_path / "rclone").mkdir()
    with RcloneS3(tmp_path / "rclone") as server:
        yield server
