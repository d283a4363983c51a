"""Blobs from sources that know ranges badly, or label what they send: a plain GET and the digest are enough."""

from __future__ import annotations

import gzip
from collections.abc import Iterator

import pytest

from mirror.errors import DigestMismatch, SizeInvalid
from mirror.oci.descriptor import Descriptor
from mirror.storage.bucket import Bucket
from tests.conftest import MakeSettings
from tests.integration.copying.engine import PART, Engine, content, engine_on
from tests.support.fakes import faults
from tests.support.fakes.registry import FakeRegistry, Reply, Request
from tests.support.fakes.traffic import Traffic

BIG = content(4 * PART + 12_345)


@pytest.fixture
def registry() -> Iterator[FakeRegistry]:
    with FakeRegistry() as fake:
        yield fake


@pytest.fixture
def engine(
    registry: FakeRegistry, versitygw_bucket: Bucket, redis_url: str, settings: MakeSettings
) -> Iterator[Engine]:
    with engine_on(registry, versitygw_bucket, redis_url, settings) as made:
        yield made


def first_byte(request: Request) -> int | None:
    """Where the range begins that was asked for, None without one."""
    asked = request.headers.get("Range")
    return int(asked.removeprefix("bytes=").partition("-")[0]) if asked else None


def on_blob(blob: Descriptor, change: faults.Change, *, behind: int = -1) -> faults.Script:
    """Change the responses to ranges of the blob that begin after a byte."""

    def script(request: Request, reply: Reply) -> Reply | None:
        start = first_byte(request)
        touched = str(blob.digest) in request.path and start is not None and start > behind
        return change(reply) if touched and reply.status in (200, 206) else None

    return script


def pieces_of(whole: bytes, most: int) -> faults.Script:
    """Give no more than *most* bytes for each range."""

    def script(request: Request, reply: Reply) -> Reply | None:
        start = first_byte(request)
        if start is None or reply.status != 206:
            return None
        end = min(int(request.headers["Range"].rpartition("-")[2]) + 1, start + most)
        headers = {"Content-Range": f"bytes {start}-{end - 1}/{len(whole)}", "Content-Length": str(end - start)}
        return Reply(206, headers, whole[start:end])

    return script


@pytest.mark.parametrize("status", [403, 416])
def test_a_source_that_refuses_every_range_is_asked_for_one_and_read_once(engine: Engine, status: int) -> None:
    first, second = engine.put(BIG, content(2 * PART, "second"))
    for blob in (first, second):
        engine.registry.script(on_blob(blob, faults.status(status)))
    engine.copy()
    assert (engine.content(first), engine.content(second)) == (BIG, content(2 * PART, "second"))
    ranges = [r for r in engine.registry.log("api", path="/blobs/") if "Range" in r.headers]
    assert len(ranges) <= 2  # both blobs may have begun before the first refusal came
    assert all(engine.asked(blob).count((0, blob.size)) == 1 for blob in (first, second))


def test_a_source_that_refuses_ranges_goes_on_after_a_cut_by_skipping(engine: Engine) -> None:
    [blob] = engine.put(BIG)
    engine.registry.script(faults.faulty(faults.cut_after(2 * PART + 7), path=str(blob.digest), times=1))
    engine.registry.script(on_blob(blob, faults.status(416)))
    engine.copy()
    assert engine.content(blob) == BIG


@pytest.mark.parametrize("most", [2**20, 3 * 2**20 + 1])
def test_pieces_that_are_shorter_than_asked_for_are_put_together(engine: Engine, most: int) -> None:
    [blob] = engine.put(BIG)
    engine.registry.script(pieces_of(BIG, most))
    notes = engine.copy()
    assert engine.content(blob) == BIG
    assert notes.copied[blob.digest] == blob.size
    begun = sorted(start for start, _ in engine.asked(blob))
    assert begun == [at for part in range(0, blob.size, PART) for at in range(part, min(part + PART, blob.size), most)]


def test_a_source_that_gives_a_byte_for_each_range_is_read_without_ranges(engine: Engine) -> None:
    [blob] = engine.put(BIG)
    engine.registry.script(pieces_of(BIG, 1))
    engine.copy()
    assert engine.content(blob) == BIG
    assert engine.asked(blob) == [(0, PART), (0, blob.size)]


MANY = content(12 * PART + 5, "many parts")
WITHDRAWN = {
    "refused": faults.status(416),
    "whole": lambda _: Reply(200, {}, MANY),
    "another": faults.header("Content-Range", f"bytes 0-9/{len(MANY)}"),
}


@pytest.mark.parametrize("change", WITHDRAWN.values(), ids=WITHDRAWN.keys())
def test_a_source_that_gives_the_first_range_alone_is_read_as_one_stream(engine: Engine, change: faults.Change) -> None:
    """Otherwise each of the blob's twelve parts would fetch and skip everything before it."""
    [blob] = engine.put(MANY)
    traffic = Traffic()
    engine.registry.script(on_blob(blob, change, behind=0))
    engine.registry.script(traffic)
    engine.copy()
    assert engine.content(blob) == MANY
    assert engine.asked(blob).count((0, PART)) == 1
    assert traffic.sent(blob.digest) < 3 * blob.size  # those parts would fetch more than six times the blob
    assert engine.bucket.uploads.list_open("") == []


@pytest.mark.parametrize("label", ["x-gzip", "aws-chunked"])
def test_a_label_on_a_blob_is_ignored(engine: Engine, label: str) -> None:
    large, small = engine.put(content(PART + 5), b"a small layer")
    engine.registry.script(faults.faulty(faults.header("Content-Encoding", label), path="/blobs/"))
    engine.copy()
    assert (engine.content(large), engine.content(small)) == (content(PART + 5), b"a small layer")
    assert len(engine.asked(large)) == 2


TEXT = b"a layer that is easily compressed " * 1000


@pytest.mark.parametrize("chunked", [False, True])
def test_a_blob_that_was_compressed_on_its_way_is_refused_with_that_reason(engine: Engine, *, chunked: bool) -> None:
    [blob] = engine.put(TEXT)
    encoded = faults.both(faults.body(gzip.compress(TEXT)), faults.header("Content-Encoding", "gzip"))
    change = faults.both(encoded, faults.chunked()) if chunked else encoded
    engine.registry.script(faults.faulty(change, path=str(blob.digest)))
    with pytest.raises(SizeInvalid) as caught:
        engine.copy()
    assert "Content-Encoding: gzip" in caught.value.hint
    assert engine.content(blob) is None
    assert len(engine.asked(blob)) == 1


def test_a_page_for_people_in_the_place_of_a_blob_is_refused_with_that_reason(engine: Engine) -> None:
    [blob] = engine.put(TEXT)
    page = Reply(200, {"Content-Type": "text/html; charset=utf-8"}, b"<html>Log in, please</html>")
    engine.registry.script(faults.faulty(lambda _: page, path=str(blob.digest)))
    with pytest.raises(SizeInvalid) as caught:
        engine.copy()
    assert "HTML" in caught.value.hint
    assert "login portal" in caught.value.hint


def test_a_wrong_byte_is_noticed_whatever_the_label(engine: Engine) -> None:
    [blob] = engine.put(TEXT)
    wrong = faults.both(faults.wrong_byte(7), faults.header("Content-Encoding", "x-gzip"))
    engine.registry.script(faults.faulty(wrong, path=str(blob.digest)))
    with pytest.raises(DigestMismatch):
        engine.copy()
    assert engine.content(blob) is None
