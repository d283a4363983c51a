from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from mirror.wiring import build
from tests.conftest import MakeSettings
from tests.integration.schedules.timeline import Timeline


@pytest.fixture
def timeline(redis_url: str, settings: MakeSettings) -> Iterator[Timeline]:
    """A fleet whose wall clock is set by the test. Nothing in it uses S3 or a registry."""
    clock = [datetime(2026, 3, 2, 12, 0, tzinfo=UTC)]
    core = build(settings(redis_url=redis_url, s3_bucket="unused"), now=lambda: clock[0])
    yield Timeline(core, clock)
    core.close()
