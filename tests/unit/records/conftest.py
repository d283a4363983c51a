from __future__ import annotations

from collections.abc import Iterator

import pytest

from mirror.records.store import JobStore
from mirror.redis.client import Redis


@pytest.fixture
def redis(redis_url: str) -> Iterator[Redis]:
    client = Redis.connect(redis_url)
    yield client
    client.close()


@pytest.fixture
def store(redis: Redis) -> JobStore:
    return JobStore(redis)
