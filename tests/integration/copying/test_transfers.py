"""Blobs copied from a source to each S3 server, through broken connections and with wrong bytes."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from isal import isal_zlib

from mirror.errors import BlobUnknown, DigestMismatch, SizeInvalid, SourceUnreachable
from mirror.locks.checkpoints import Checkpoints
from mirror.oci.sha256 import Sha256
from mirror.storage.bucket import Bucket
from tests.conftest import MakeSettings
from tests.integration.copying.engine import BIG, PART, Engine, content, engine_on, on_range
from tests.support.fakes import faults
from tests.support.fakes.registry import FakeRegistry, Reply


def test_a_large_blob_arrives_whole_in_ranges_that_ask_for_no_byte_twice(engine: Engine) -> None:
    [blob] = engine.put(BIG)
    notes = engine.copy()
    assert engine.content(blob) == BIG
    asked = sorted(engine.asked(blob))
    assert asked == [(start, min(start + PART, blob.size)) for start in range(0, blob.size, PART)]
    assert notes.states[blob.digest] == ["waiting", "copying", "verifying", "copied"]
    assert notes.copied[blob.digest] == blob.size
    assert Checkpoints(engine.redis).load(blob.digest) is None


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
