from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest

from mirror.oci.digest import Digest
from mirror.storage.tombstones import Tombstone

TOMBSTONE = Tombstone(
    Digest("sha256", "1" * 64),
    "docker.io/library/alpine:3.17",
    datetime(2026, 3, 2, 3, 0, tzinfo=UTC),
    "schedule_01JDB2V3R8Y0N5Q7T9W1X3Z5B6",
    "run_01JDB2V3R8Y0N5Q7T9W1X3Z5B7",
)


def test_a_tombstone_survives_its_json() -> None:
    assert Tombstone.from_json(TOMBSTONE.to_json()) == TOMBSTONE


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no JSON",
        b"[]",
        b"{}",
        json.dumps({**json.loads(TOMBSTONE.to_json()), "digest": "latest"}).encode(),
        json.dumps({**json.loads(TOMBSTONE.to_json()), "deleted_at": "yesterday"}).encode(),
        json.dumps({**json.loads(TOMBSTONE.to_json()), "deleted_at": 5}).encode(),
        b"[" * 10_000,
        b"\xff",
    ],
)
def test_what_is_no_tombstone_is_none(content: bytes) -> None:
    assert Tombstone.from_json(content) is None
