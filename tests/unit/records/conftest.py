from __future__ import annotations

from collections.abc import Iterator

import pytest

from mirror.redis.client import Redis
from tests.records import Records


@pytest.fixture
def redis(redis_url: str) -> Iterator[Redis]:
    client = Redis.connect(redis_url)
    yield client
    client.close()


@pytest.fixture
def records(redis: Redis) -> Records:
    return Records.on(redis)
