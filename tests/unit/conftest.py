from __future__ import annotations

import ipaddress
from collections.abc import Iterator

import pytest

from mirror.catalog.index import CatalogIndex
from mirror.catalog.publishing import Publisher
from mirror.catalog.reading import CatalogReader
from mirror.coordination.admission import SharedAdmission
from mirror.coordination.pins import Pins
from mirror.coordination.redis import Redis, open_client
from mirror.copying.copier import Copier
from mirror.copying.interruption import waking
from mirror.copying.memory import MemoryBudget
from mirror.jobs.keeping import ClaimKeeping
from mirror.jobs.performing import Performer
from mirror.jobs.reconciling import Reconciler
from mirror.jobs.storage_guard import StorageGuard
from mirror.jobs.submission import Submitter
from mirror.queue import TaskQueue
from mirror.records.store import JobStore
from mirror.registry.client import RegistryClient
from mirror.settings import Settings
from mirror.storage.bucket import Bucket
from mirror.storage.links import LinkStore
from tests.conftest import MakeSettings
from tests.fakes.registry import FakeRegistry
from tests.plant import Plant


@pytest.fixture
def registry() -> Iterator[FakeRegistry]:
    with FakeRegistry() as fake:
        yield fake


@pytest.fixture
def insecure_hosts(registry: FakeRegistry) -> frozenset[str]:
    """The registries that the plant speaks plain HTTP to."""
    return frozenset({registry.host})


@pytest.fixture
def plant(
    registry: FakeRegistry,
    insecure_hosts: frozenset[str],
    redis_url: str,
    bucket: Bucket,
    s3_settings: Settings,
    settings: MakeSettings,
) -> Iterator[Plant]:
    chosen = settings(
        redis_url=redis_url,
        insecure_registries=insecure_hosts,
        allowed_networks=(ipaddress.ip_network("127.0.0.0/8"),),
    )
    redis = Redis.connect(redis_url)
    raw = open_client(redis_url, retries=2, decode_responses=False)
    store, queue, publisher = JobStore(redis), TaskQueue(raw), Publisher(bucket, redis)
    keeping = ClaimKeeping(store, Pins(redis))
    admission = SharedAdmission(redis, most={})
    source = RegistryClient.from_settings(chosen, admission=admission, sleep=lambda _: None, wakers=waking)
    copier = Copier(source, bucket, redis, MemoryBudget(64 * 2**20))
    yield Plant(
        registry=registry,
        settings=chosen,
        bucket=bucket,
        redis=redis,
        store=store,
        queue=queue,
        submitter=Submitter(store, queue, chosen),
        reconciler=Reconciler(store, queue, redis),
        publisher=publisher,
        reader=CatalogReader(bucket),
        index=CatalogIndex(redis),
        links=LinkStore(bucket),
        performer=Performer(
            store, queue, redis, keeping, publisher, source, bucket, copier, StorageGuard(bucket, redis)
        ),
    )
    source.close()
    admission.close()
    raw.close()
    redis.close()
