from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from mirror.settings import Settings
from mirror.storage.bucket import Bucket
from mirror.wiring import build
from tests.conftest import MakeSettings
from tests.integration.schedules.following import TAGS, FollowedSource
from tests.integration.schedules.timeline import Timeline
from tests.support.fakes.registry import FakeRegistry


@pytest.fixture
def timeline(redis_url: str, settings: MakeSettings) -> Iterator[Timeline]:
    """A fleet whose wall clock is set by the test. Nothing in it uses S3 or a registry."""
    clock = [datetime(2026, 3, 2, 12, 0, tzinfo=UTC)]
    core = build(settings(redis_url=redis_url, s3_bucket="unused"), now=lambda: clock[0])
    yield Timeline(core, clock)
    core.close()


@pytest.fixture
def source(
    registry: FakeRegistry, redis_url: str, bucket: Bucket, s3_settings: Settings, settings: MakeSettings
) -> Iterator[FollowedSource]:
    """A source with `TAGS`, and a mirror that holds nothing."""
    chosen = settings(
        redis_url=redis_url,
        s3_bucket=s3_settings.s3_bucket,
        insecure_registries=frozenset({registry.host}),
        allowed_networks=(ipaddress.ip_network("127.0.0.0/8"),),
        memory_budget=64 * 2**20,
        admin_token="a-token-of-tests-only",
    )
    found = FollowedSource.of(registry, chosen, bucket)
    found.publish(*TAGS)
    yield found
    found.core.close()
