"""Blobs on their way, whatever the source, S3 or another worker does to them. Every S3 server in turn."""

from __future__ import annotations

import ipaddress
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
from isal import isal_zlib

from mirror.copying import blob_queue, copier
from mirror.copying.cancellation import Cancellation, OperationCanceled, on_cancel
from mirror.errors import BlobBusy, BlobUnknown, DigestMismatch, SizeInvalid, SourceUnreachable
from mirror.locks.checkpoints import Checkpoints
from mirror.locks.lease import Leases
from mirror.oci.descriptor import Descriptor
from mirror.oci.sha256 import Sha256
from mirror.redis import keys
from mirror.redis.client import Redis
from mirror.registry.client import RegistryClient
from mirror.storage.blobs import BlobStore
from mirror.storage.bucket import Bucket
from mirror.wiring import build_throttle
from tests.conftest import MakeSettings
from tests.e2e.processes import eventually
from tests.integration.copying.engine import PART, Engine, RecordingProgress, content
from tests.support.fakes import faults
from tests.support.fakes.registry import FakeRegistry, Reply, Request

BIG = content(7 * PART + 12_345)


@contextmanager
def engine_on(
    registry: FakeRegistry, bucket: Bucket, redis_url: str, settings: MakeSettings, *, connections: int = 16
) -> Iterator[Engine]:
    chosen = settings(
        insecure_registries=frozenset({registry.host}), allowed_networks=(ipaddress.ip_network("127.0.0.0/8"),)
    )
    redis = Redis.connect(redis_url)
    throttle = build_throttle(redis, {registry.host: connections})
    client = RegistryClient.from_settings(chosen, throttle=throttle, sleep=lambda _: None, on_cancel=on_cancel)
    yield Engine(registry, client, bucket, redis)
    client.close()
    throttle.limiter.close()
    redis.close()


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


def on_range(blob: Descriptor, start: int, change: faults.Change, *, times: int | None = None) -> faults.Script:
    """Change the responses to requests for the blob from byte *start* on."""
    touched = faults.faulty(change, path=str(blob.digest), times=times)

    def script(request: Request, reply: Reply) -> Reply | None:
        return touched(request, reply) if request.headers.get("Range", "").startswith(f"bytes={start}-") else None

    return script


def wait_for(copying: Future[RecordingProgress], ask: Callable[[], object], what: str) -> None:
    """Until *ask* says so, while the copy goes on."""
    eventually(lambda: copying.done() or ask(), what=what)
    assert not copying.done(), copying.exception()


def frontier(engine: Engine, blob: Descriptor) -> int:
    found = Checkpoints(engine.redis).load(blob.digest)
    return found.frontier if found else -1


def interrupted_at_a_part(
    engine: Engine, blob: Descriptor, part: int, *, resumable: bool = True, holder: str = "first"
) -> None:
    """Begin the copy, hold *part* (from 1) back, and stop when the frontier has passed all parts before it."""
    release = threading.Event()
    engine.registry.scripts += [on_range(blob, (part - 1) * PART, faults.held_until(release, 1000))]
    cancellation = Cancellation()
    with ThreadPoolExecutor(1) as pool:
        copying = pool.submit(engine.copy, cancellation, holder=holder)
        wait_for(copying, lambda: frontier(engine, blob) == part - 1, "all parts before it are done")
        cancellation.cancel("stopped", resumable=resumable)
        with pytest.raises(OperationCanceled):
            copying.result(30)
    release.set()
    engine.registry.scripts = []


def test_a_large_blob_arrives_whole_in_ranges_that_ask_for_no_byte_twice(engine: Engine) -> None:
    [blob] = engine.put(BIG)
    notes = engine.copy()
    assert engine.content(blob) == BIG
    asked = sorted(engine.asked(blob))
    assert asked == [(start, min(start + PART, blob.size)) for start in range(0, blob.size, PART)]
    assert notes.states[blob.digest] == ["waiting", "copying", "verifying", "copied"]
    assert notes.copied[blob.digest] == blob.size
    assert Checkpoints(engine.redis).load(blob.digest) is None


def test_several_large_and_small_blobs_share_a_budget_smaller_than_any_two(engine: Engine) -> None:
    layers = [BIG, content(3 * PART, "three"), content(PART, "one"), content(10, "tiny"), b""]
    blobs = engine.put(*layers)
    engine.copy(budget=PART)
    assert [engine.content(blob) for blob in blobs] == layers


@pytest.mark.parametrize("ranges", [True, False])
def test_no_thread_that_makes_a_parts_crc_hashes_too(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, *, ranges: bool
) -> None:
    """The CRC leaves registers in a state in which SHA-256 takes a third longer: see `mirror.oci.sha256`."""
    hashing, making_crcs = set[int](), set[int]()

    def noted(threads: set[int], work: Callable[..., Any]) -> Callable[..., Any]:
        def noting(*args: Any) -> Any:
            threads.add(threading.get_ident())
            return work(*args)

        return noting

    monkeypatch.setattr(Sha256, "update", noted(hashing, Sha256.update))
    monkeypatch.setattr(isal_zlib, "crc32", noted(making_crcs, isal_zlib.crc32))
    engine.registry.ranges = ranges
    [blob] = engine.put(BIG)
    engine.copy()
    assert engine.content(blob) == BIG
    assert hashing
    assert making_crcs
    assert not hashing & making_crcs


def test_a_source_that_knows_no_ranges_is_read_once(engine: Engine) -> None:
    engine.registry.ranges = False
    [blob] = engine.put(BIG)
    engine.copy()
    assert engine.content(blob) == BIG
    assert len(engine.asked(blob)) == 1


def test_without_ranges_a_cut_stream_is_read_again_from_its_beginning(engine: Engine) -> None:
    engine.registry.ranges = False
    [blob] = engine.put(BIG)
    engine.registry.script(faults.faulty(faults.reset_after(2 * PART + 7), path=str(blob.digest), times=1))
    engine.copy()
    assert engine.content(blob) == BIG
    assert len(engine.asked(blob)) == 2


@pytest.mark.parametrize("fault", [faults.cut_after, faults.reset_after], ids=["cut", "reset"])
def test_a_broken_connection_goes_on_at_the_byte_it_reached(
    engine: Engine, fault: Callable[[int], faults.Change]
) -> None:
    [blob] = engine.put(BIG)
    reached = 3 * 2**20
    engine.registry.script(on_range(blob, 2 * PART, fault(reached), times=1))
    engine.copy()
    assert engine.content(blob) == BIG
    first, again = [start for start, end in engine.asked(blob) if end == 3 * PART]
    assert first == 2 * PART <= again <= 2 * PART + reached  # a reset throws away what the kernel had not handed over


def test_a_connection_that_breaks_without_end_but_moves_on_is_endured(engine: Engine) -> None:
    [blob] = engine.put(content(2 * PART))
    engine.registry.script(faults.faulty(faults.cut_after(2**20), path=str(blob.digest)))
    engine.copy()
    assert len(engine.asked(blob)) >= 2 * PART // 2**20


def test_a_source_that_gives_nothing_any_more_is_given_up(engine: Engine) -> None:
    [blob] = engine.put(BIG)
    engine.registry.script(on_range(blob, 2 * PART, faults.reset_after(0)))
    with pytest.raises(SourceUnreachable):
        engine.copy()
    assert engine.content(blob) is None


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mirror.http.deadlines.STALL_SECONDS", 0.2)


@pytest.mark.usefixtures("impatient")
def test_a_connection_that_trickles_is_given_up_and_another_one_goes_on(
    registry: FakeRegistry, bucket: Bucket, redis_url: str, settings: MakeSettings
) -> None:
    with engine_on(registry, bucket, redis_url, settings) as engine:
        [blob] = engine.put(BIG)
        never = threading.Event()
        engine.registry.script(on_range(blob, PART, faults.held_until(never, 2**20 + 10), times=1))
        engine.copy()
        assert engine.content(blob) == BIG


def test_a_part_that_fails_ends_the_wait_of_the_others_for_their_answers(engine: Engine) -> None:
    """Else they would wait until their timeout, and ask again."""
    [blob] = engine.put(BIG)
    asked, ended = threading.Event(), threading.Event()

    def hold(reply: Reply) -> Reply:
        asked.set()
        assert ended.wait(120)
        return reply

    def refuse(_: Reply) -> Reply:
        assert asked.wait(30)
        return Reply(404)

    engine.registry.script(on_range(blob, PART, hold))
    engine.registry.script(on_range(blob, 2 * PART, refuse))
    with pytest.raises(BlobUnknown):
        engine.copy()
    ended.set()
    assert [start for start, _ in engine.asked(blob)].count(PART) == 1


@pytest.mark.parametrize("position", [0, PART + 1, len(BIG) - 1])
def test_one_wrong_byte_leaves_no_object_no_upload_and_no_checkpoint(strict: Engine, position: int) -> None:
    [blob] = strict.put(BIG)
    start = position // PART * PART
    strict.registry.script(on_range(blob, start, faults.wrong_byte(position - start)))
    with pytest.raises(DigestMismatch):
        strict.copy()
    assert strict.content(blob) is None
    assert strict.bucket.uploads.list_open("") == []
    assert Checkpoints(strict.redis).load(blob.digest) is None


def test_a_whole_blob_with_more_bytes_than_described_is_refused(engine: Engine) -> None:
    engine.registry.ranges = False
    [blob] = engine.put(BIG)
    longer = faults.both(faults.too_long(), faults.chunked())
    engine.registry.script(faults.faulty(longer, path=str(blob.digest)))
    with pytest.raises(SizeInvalid):
        engine.copy()
    assert engine.content(blob) is None


def test_an_interrupted_blob_goes_on_from_its_frontier(strict: Engine) -> None:
    [blob] = strict.put(BIG)
    interrupted_at_a_part(strict, blob, 5)
    [upload] = strict.bucket.uploads.list_open("")
    found = Checkpoints(strict.redis).load(blob.digest)
    assert found is not None
    assert (found.upload_id, found.frontier, found.part_size) == (upload.upload_id, 4, PART)
    before = strict.requests
    notes = strict.copy()
    assert strict.content(blob) == BIG
    assert min(start for start, _ in strict.asked(blob, before)) == 4 * PART
    assert sum(end - start for start, end in strict.asked(blob, before)) == blob.size - 4 * PART
    assert notes.copied[blob.digest] == blob.size
    assert strict.bucket.uploads.list_open("") == []


def test_a_checkpoint_names_whom_the_blob_was_last_gone_on_with_for(strict: Engine) -> None:
    [blob] = strict.put(BIG)
    for part, holder in ((3, "first"), (5, "second")):
        interrupted_at_a_part(strict, blob, part, holder=holder)
        [upload] = strict.bucket.uploads.list_open("")
        assert Checkpoints(strict.redis).open_upload(blob.digest) == (upload.upload_id, holder)


def test_a_cancelled_blob_leaves_nothing_open(strict: Engine) -> None:
    [blob] = strict.put(BIG)
    interrupted_at_a_part(strict, blob, 3, resumable=False)
    assert strict.bucket.uploads.list_open("") == []
    assert Checkpoints(strict.redis).load(blob.digest) is None
    assert not strict.redis.call("EXISTS", keys.blob_lease(blob.digest))


def test_a_blob_whose_upload_s3_has_lost_begins_again(strict: Engine) -> None:
    [blob] = strict.put(BIG)
    interrupted_at_a_part(strict, blob, 4)
    [upload] = strict.bucket.uploads.list_open("")
    strict.bucket.uploads.abort(upload.key, upload.upload_id)
    strict.copy()
    assert strict.content(blob) == BIG
    assert strict.bucket.uploads.list_open("") == []


def test_a_beginning_from_a_lying_source_does_not_spoil_an_honest_one(strict: Engine) -> None:
    """A checkpoint belongs to a digest, not to its writer. One source's bytes must not block another's blob."""
    [blob] = strict.put(BIG)
    strict.registry.script(on_range(blob, 0, faults.wrong_byte(5)))
    interrupted_at_a_part(strict, blob, 3)
    assert frontier(strict, blob) == 2
    strict.copy()
    assert strict.content(blob) == BIG
    assert strict.bucket.uploads.list_open("") == []


def test_a_checkpoint_that_no_longer_fits_the_budget_is_thrown_away_with_its_upload(strict: Engine) -> None:
    [blob] = strict.put(BIG)
    lease = Leases(strict.redis).take(keys.blob_lease(blob.digest), 60)
    assert lease is not None
    store = BlobStore(strict.bucket, min_part=3 * PART)
    opened = store.begin(blob).open()
    Checkpoints(strict.redis).begin(lease, blob.digest, str(opened.upload_id), 3 * PART, holder="task-1")
    Leases(strict.redis).end(lease)
    strict.copy(budget=2 * PART)
    assert strict.content(blob) == BIG
    assert strict.bucket.uploads.list_open("") == []


def test_a_sha512_blob_begins_again(strict: Engine) -> None:
    [blob] = strict.put(BIG, algorithm="sha512")
    release, cancellation = threading.Event(), Cancellation()
    strict.registry.script(on_range(blob, 3 * PART, faults.held_until(release, 1000), times=1))
    with ThreadPoolExecutor(1) as pool:
        copying = pool.submit(strict.copy, cancellation)
        wait_for(copying, lambda: len(strict.asked(blob)) >= 4, "four parts were asked for")
        cancellation.cancel("stopped")
        with pytest.raises(OperationCanceled):
            copying.result(30)
    release.set()
    strict.copy()
    assert strict.content(blob) == BIG
    assert strict.bucket.uploads.list_open("") == []


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
