from __future__ import annotations

import pytest

from mirror.redis.client import Redis
from tests.support.records import Records


@pytest.fixture
def records(redis: Redis) -> Records:
    return Records.on(redis)
