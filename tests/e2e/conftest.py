from __future__ import annotations

import ipaddress
import json
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import pytest

from mirror.jobs.submit import Submitter
from mirror.queue import TaskQueue
from mirror.records.jobs import JobStore
from mirror.redis.client import Redis, open_client
from mirror.redis.failures import PATIENT
from mirror.storage.bucket import Bucket
from mirror.storage.s3 import S3Clients
from mirror.wiring import build
from tests.api.live_service import LiveService
from tests.api.seeded_catalog import SeededCatalog
from tests.conftest import MakeSettings, SettingsForServer, bucket_for
from tests.e2e.fleet import Fleet
from tests.e2e.node_clients import APP, HUB, PREFIX, PULL_TOKEN, QUAY, REDIS, Client, MakeNode, Mirrors
from tests.support.fakes.certificates import Authority, Issued
from tests.support.fakes.registry import FakeRegistry
from tests.support.harness import mark_built
from tests.support.servers import RcloneS3, S3Server, ValkeyServer, VersityGateway, program
from tests.support.servers.node import NAMES, Node
from tests.support.servers.process import in_ci

MakeFleet = Callable[..., Fleet]
_POLICY: Final = {"default": [{"type": "insecureAcceptAnything"}]}
_STORAGE: Final = '[storage]\ndriver = "vfs"\nrunroot = "/run/storage"\ngraphroot = "/var/lib/storage"\n'


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


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Issued:
    return Authority(tmp_path_factory.mktemp("authority")).issue(*NAMES)


@pytest.fixture(scope="session")
def mirrors(tmp_path_factory: pytest.TempPathFactory, valkey: ValkeyServer, rclone_s3: RcloneS3) -> Iterator[Mirrors]:
    started = Mirrors(tmp_path_factory, valkey, rclone_s3)
    yield started
    started.close()


@pytest.fixture
def held(
    rclone_s3: RcloneS3, redis_url: str, settings_for_server: SettingsForServer, s3_clients: dict[str, S3Clients]
) -> Iterator[SeededCatalog]:
    """An image of Docker Hub and one of quay.io in the mirror, under their default names."""
    settings = settings_for_server(rclone_s3, PREFIX, redis_url=redis_url, admin_token="x" * 32)
    core = build(settings, bucket=bucket_for(settings, s3_clients))
    mark_built(core.redis)
    holding = SeededCatalog(core)
    holding.hold(REDIS, HUB, source=HUB)
    holding.hold(APP, QUAY, source=QUAY)
    yield holding
    core.close()


@pytest.fixture
def node(tmp_path: Path, certificate: Issued, rclone_s3: RcloneS3) -> Iterator[MakeNode]:
    """Makes a node for a service and the named clients.

    *trusts* says whether its system trusts the mirror's CA.
    """
    with ExitStack() as running:

        def make(mirror: LiveService, *clients: Client, trusts: bool = True) -> Node:
            program("ip")
            for client in clients:
                for name in client.programs:
                    program(name, folder=client.folder)
            if os.geteuid() != 0:
                (pytest.fail if in_ci() else pytest.skip)("only root can make a node of its own")
            variables = {"MIRROR_PULL_TOKEN": PULL_TOKEN}
            if trusts:
                variables["SSL_CERT_FILE"] = str(certificate.authority)
            for client in clients:
                variables |= client.variables
            made = Node(tmp_path, mirror.url, certificate.context(), variables, s3_url=rclone_s3.url)
            running.enter_context(made)
            # The policy of Debian's package, and a storage driver that works on every file system.
            made.write({"/etc/containers/policy.json": json.dumps(_POLICY), "/etc/containers/storage.conf": _STORAGE})
            return made

        yield make
