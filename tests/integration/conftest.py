from __future__ import annotations

import ipaddress
from collections.abc import Iterator

import pytest

from mirror.settings import Settings
from mirror.storage.bucket import Bucket
from tests.conftest import MakeSettings
from tests.support.fakes.registry import FakeRegistry
from tests.support.harness import Harness


@pytest.fixture
def registry() -> Iterator[FakeRegistry]:
    with FakeRegistry() as fake:
        yield fake


@pytest.fixture
def insecure_hosts(registry: FakeRegistry) -> frozenset[str]:
    """The registries that the harness speaks plain HTTP to."""
    return frozenset({registry.host})


@pytest.fixture
def harness(
    registry: FakeRegistry,
    insecure_hosts: frozenset[str],
    redis_url: str,
    bucket: Bucket,
    s3_settings: Settings,
    settings: MakeSettings,
) -> Iterator[Harness]:
    chosen = settings(
        redis_url=redis_url,
        s3_bucket=s3_settings.s3_bucket,
        insecure_registries=insecure_hosts,
        allowed_networks=(ipaddress.ip_network("127.0.0.0/8"),),
        memory_budget=64 * 2**20,
    )
    harness = Harness.of(registry, chosen, bucket)
    yield harness
    harness.core.close()
