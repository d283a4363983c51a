from __future__ import annotations

from collections.abc import Iterator

import pytest

from mirror.redis.client import Redis


@pytest.fixture
def redis(redis_url: str) -> Iterator[Redis]:
    """A client of an empty Valkey."""
    client = Redis.connect(redis_url)
    yield client
    client.close()
