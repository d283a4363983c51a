from __future__ import annotations

from collections.abc import Iterator

import pytest

from mirror.storage.bucket import Bucket
from tests.conftest import MakeSettings
from tests.integration.copying.engine import Engine, engine_on
from tests.support.fakes.registry import FakeRegistry


@pytest.fixture
def engine(registry: FakeRegistry, bucket: Bucket, redis_url: str, settings: MakeSettings) -> Iterator[Engine]:
    """On each S3 server in turn."""
    with engine_on(registry, bucket, redis_url, settings) as made:
        yield made


@pytest.fixture
def strict(
    registry: FakeRegistry, versitygw_bucket: Bucket, redis_url: str, settings: MakeSettings
) -> Iterator[Engine]:
    """On the S3 that keeps open uploads, and lists them."""
    with engine_on(registry, versitygw_bucket, redis_url, settings) as made:
        yield made
