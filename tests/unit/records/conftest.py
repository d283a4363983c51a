from __future__ import annotations

import pytest

from mirror.records.store import JobStore
from mirror.redis.client import Redis


@pytest.fixture
def store(redis: Redis) -> JobStore:
    return JobStore(redis)
