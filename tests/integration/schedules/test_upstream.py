"""The mirror follows its source: what a schedule does when tags appear, move and disappear there."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator

import pytest

from mirror.settings import Settings
from mirror.storage.bucket import Bucket
from tests.conftest import MakeSettings
from tests.integration.schedules.following import SOURCE, FollowedSource, digest_of
from tests.support.fakes.registry import FakeRegistry, Reply
from tests.support.servers.s3 import RcloneS3

TAGS = ("1.0", "1.1", "1.2", "2.0", "2.1", "latest")


@pytest.fixture
def s3_server(rclone_s3: RcloneS3) -> RcloneS3:
    """These tests are about the source and Redis. Any S3 server will do."""
    return rclone_s3


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
    )
    found = FollowedSource.of(registry, chosen, bucket)
    found.publish(*TAGS)
    yield found
    found.core.close()


def test_the_next_runs_mirror_follow_and_delete(source: FollowedSource) -> None:
    source.create()
    assert source.next_run().state == "succeeded"
    assert source.tags() == sorted(TAGS)
    source.publish("2.2")
    source.publish("latest", content="second")
    source.withdraw("1.0")
    run = source.next_run()
    assert source.tags() == sorted([*TAGS, "2.2"])
    assert source.shown("latest") == digest_of("latest", "second")
    assert (run.state, run.upstream) == ("succeeded", {"gone": 1, "deleted": 0, "tombstoned": 0, "braked": 0})
    assert source.next_run().upstream == {"gone": 1, "deleted": 0, "tombstoned": 0, "braked": 0}
    assert source.shown("1.0") == digest_of("1.0")
    run = source.next_run()
    assert (run.state, run.note, run.upstream) == (
        "succeeded",
        None,
        {"gone": 1, "deleted": 1, "tombstoned": 0, "braked": 0},
    )
    assert source.tags() == sorted([*TAGS, "2.2"])[1:]
    assert source.shown("1.0") is None
    assert source.next_run().upstream == {"gone": 0, "deleted": 0, "tombstoned": 0, "braked": 0}
    assert f"{SOURCE}:1.0" not in source.known()
    assert source.core.bucket.size(f"mirror/v1/tombstones/{SOURCE}/_tags/1.0") is None
    source.publish("1.0")
    source.next_run()
    assert source.shown("1.0") == digest_of("1.0")
