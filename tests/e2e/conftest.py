from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from pathlib import Path

import pytest

from mirror.coordination.redis import PATIENT, Redis, open_client
from mirror.jobs.submission import Submitter
from mirror.queue import TaskQueue
from mirror.records.store import JobStore
from mirror.storage.bucket import Bucket
from tests.conftest import MakeSettings, SettingsForServer
from tests.e2e.fleet import Fleet
from tests.fakes.registry import FakeRegistry
from tests.servers import RcloneS3, ValkeyServer


@pytest.fixture
def fleet(
    tmp_path: Path,
    rclone_s3: RcloneS3,
    s3_prefix: str,
    settings: MakeSettings,
    settings_for_server: SettingsForServer,
) -> Iterator[Fleet]:
    (tmp_path / "valkey").mkdir()
    with FakeRegistry() as registry, ValkeyServer(tmp_path / "valkey", append_only=True) as valkey:
        environment = {
            **rclone_s3.settings_env(s3_prefix),
            "MIRROR_REDIS_URL": valkey.url,
            "MIRROR_INSECURE_REGISTRIES": registry.host,
            "MIRROR_ALLOWED_NETWORKS": "127.0.0.0/8",
        }
        redis = Redis.connect(valkey.url, retries=PATIENT)
        raw = open_client(valkey.url, retries=PATIENT, decode_responses=False)
        store = JobStore(redis)
        bucket = Bucket.from_settings(settings_for_server(rclone_s3, s3_prefix))
        submitter = Submitter(store, TaskQueue(raw), settings(allowed_networks=(ipaddress.ip_network("127.0.0.0/8"),)))
        yield Fleet(registry, valkey, store, submitter, bucket, environment, tmp_path)
        bucket.close()
        raw.close()
        redis.close()
