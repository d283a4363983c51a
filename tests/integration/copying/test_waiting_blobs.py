"""Blobs that wait for another worker, for memory or for a connection."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from mirror.copying import blob_queue, copier
from mirror.errors import BlobBusy
from mirror.locks.checkpoints import Checkpoints
from mirror.locks.lease import Leases
from mirror.redis import keys
from mirror.storage.bucket import Bucket
from tests.conftest import MakeSettings
from tests.integration.copying.engine import BIG, PART, Engine, content, engine_on, on_range, wait_for
from tests.support.fakes import faults
from tests.support.fakes.registry import FakeRegistry


def test_several_large_and_small_blobs_share_a_budget_smaller_than_any_two(engine: Engine) -> None:
    layers = [BIG, content(3 * PART, "three"), content(PART, "one"), content(10, "tiny"), b""]
    blobs = engine.put(*layers)
    engine.copy(budget=PART)
    assert [engine.content(blob) for blob in blobs] == layers


def test_while_another_worker_has_a_blob_the_others_are_brought_and_the_task_waits(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blob_queue, "LONGEST_WAIT", 0.5)
    taken, free = engine.put(BIG, b"free")
    assert Leases(engine.redis).take(keys.blob_lease(taken.digest), 60)
    with pytest.raises(BlobBusy):
        engine.copy()
    assert (engine.content(taken), engine.content(free)) == (None, b"free")
    assert engine.asked(taken) == []
    assert engine.progress.states[taken.digest] == ["waiting"]


def test_what_another_worker_brought_meanwhile_is_not_fetched(engine: Engine) -> None:
    [blob] = engine.put(content(100))
    lease = Leases(engine.redis).take(keys.blob_lease(blob.digest), 60)
    assert lease is not None
    with ThreadPoolExecutor(1) as pool:
        copying = pool.submit(engine.copy)
        wait_for(copying, lambda: blob.digest in engine.progress.states, "the blob was planned")
        engine.bucket.put(f"docker/registry/v2/blobs/sha256/{blob.digest.hex[:2]}/{blob.digest.hex}/data", content(100))
        Checkpoints(engine.redis).finish(lease, blob.digest)
        Leases(engine.redis).end(lease)
        notes = copying.result(30)
    assert notes.states[blob.digest][-1] == "exists"
    assert engine.asked(blob) == []


def test_two_copies_at_once_fetch_every_byte_once(engine: Engine) -> None:
    [blob] = engine.put(BIG)
    other = Engine(engine.registry, engine.client, engine.bucket, engine.redis)
    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(engine.copy), pool.submit(other.copy)]:
            done.result(60)
    assert sum(end - start for start, end in engine.asked(blob)) == blob.size


def test_a_worker_that_lost_its_lease_stops_and_waits_for_the_other(
    strict: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copier, "BLOB_LEASE_SECONDS", 1.0)
    monkeypatch.setattr(blob_queue, "LONGEST_WAIT", 0.5)
    [blob] = strict.put(BIG)
    release = threading.Event()
    strict.registry.script(on_range(blob, 4 * PART, faults.held_until(release, 1000)))
    with ThreadPoolExecutor(1) as pool:
        copying = pool.submit(strict.copy)
        wait_for(copying, lambda: strict.progress.checkpoints, "there is a checkpoint")
        strict.redis.call("SET", keys.blob_lease(blob.digest), "another worker")
        with pytest.raises(BlobBusy):
            copying.result(30)
    release.set()
    assert strict.content(blob) is None
    assert strict.redis.call("GET", keys.blob_lease(blob.digest)) == "another worker"


@pytest.mark.parametrize("ranges", [True, False], ids=["ranges", "no ranges"])
def test_one_connection_and_one_buffer_are_enough_for_many_blobs(
    registry: FakeRegistry,
    versitygw_bucket: Bucket,
    redis_url: str,
    settings: MakeSettings,
    ranges: bool,
) -> None:
    """A blob that has the connection must not wait for memory, nor one that has the memory keep it while it waits."""
    registry.ranges = ranges
    layers = [content(3 * PART + 1, str(number)) for number in range(4)] + [b"small", b"smaller"]
    with engine_on(registry, versitygw_bucket, redis_url, settings, connections=1) as narrow:
        blobs = narrow.put(*layers)
        narrow.copy(budget=PART)
        assert [narrow.content(blob) for blob in blobs] == layers
