"""Blobs: never longer than described, resumable, and interruptible."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from mirror.errors import AnswerTruncated, BlobUnknown, MirrorError, SizeInvalid, SourceError
from mirror.oci.descriptor import Descriptor
from mirror.oci.digest import Digest
from mirror.oci.reference import Reference
from mirror.registry.blobs import BlobResponse
from mirror.registry.client import RegistryClient
from tests.integration.registry.conftest import REPOSITORY
from tests.support.fakes import faults
from tests.support.fakes.registry import FakeRegistry, Synthetic

SIZE = 3 * 1024 * 1024 + 17
CONTENT = b"".join(Synthetic(SIZE).pieces(0, SIZE))
BLOB = Descriptor("application/octet-stream", Digest.of(CONTENT), SIZE)


@pytest.fixture(autouse=True)
def _stored(registry: FakeRegistry) -> None:
    registry.put_blob(REPOSITORY, BLOB.digest, Synthetic(SIZE))


@pytest.fixture
def never() -> Iterator[threading.Event]:
    event = threading.Event()
    yield event
    event.set()


def _read(stream: BlobResponse, piece: int = 1024 * 1024) -> bytes:
    """Read to the end."""
    buffer, whole = memoryview(bytearray(piece)), bytearray()
    while count := stream.readinto(buffer):
        whole += buffer[:count]
    return bytes(whole)


@pytest.mark.parametrize("piece", [1, 1000, 1024 * 1024, 2 * SIZE])
def test_a_blob_is_read_byte_for_byte_with_any_buffer(client: RegistryClient, reference: Reference, piece: int) -> None:
    small = 5000 if piece < 1024 else SIZE
    blob = Descriptor(BLOB.media_type, BLOB.digest, SIZE)
    with client.open_blob(reference, blob, offset=SIZE - small) as stream:
        assert (stream.start, _read(stream, piece)) == (SIZE - small, CONTENT[SIZE - small :])


def test_a_read_fills_the_buffer_though_the_bytes_come_in_pieces(
    client: RegistryClient, registry: FakeRegistry, reference: Reference
) -> None:
    registry.script(faults.faulty(faults.body(CONTENT[n : n + 1000] for n in range(0, SIZE, 1000))))
    with client.open_blob(reference, BLOB) as stream:
        buffer = memoryview(bytearray(1024 * 1024))
        assert stream.readinto(buffer) == len(buffer)
        assert buffer == CONTENT[: len(buffer)]


def test_an_empty_buffer_is_not_the_end(client: RegistryClient, reference: Reference) -> None:
    with client.open_blob(reference, BLOB) as stream:
        assert stream.readinto(memoryview(b"")) == 0
        assert _read(stream) == CONTENT


def test_an_empty_blob_ends_at_once(client: RegistryClient, registry: FakeRegistry, reference: Reference) -> None:
    empty = Descriptor("application/octet-stream", Digest.of(b""), 0)
    registry.put_blob(REPOSITORY, empty.digest, b"")
    with client.open_blob(reference, empty) as stream:
        assert _read(stream) == b""


def test_a_blob_that_was_read_completely_returns_its_connection(
    client: RegistryClient, registry: FakeRegistry, reference: Reference
) -> None:
    for _ in range(3):
        with client.open_blob(reference, BLOB) as stream:
            _read(stream)
    assert registry.connections["api"] == 1


def test_a_blob_that_is_closed_early_leaves_nothing_for_the_next_request(
    client: RegistryClient, reference: Reference
) -> None:
    with client.open_blob(reference, BLOB) as stream:
        stream.readinto(memoryview(bytearray(1000)))
    with client.open_blob(reference, BLOB) as stream:
        assert _read(stream) == CONTENT


def test_a_server_with_ranges_continues_at_the_offset(
    client: RegistryClient, registry: FakeRegistry, reference: Reference
) -> None:
    with client.open_blob(reference, BLOB, offset=2_000_000) as stream:
        assert (stream.start, _read(stream)) == (2_000_000, CONTENT[2_000_000:])
    assert [request.headers.get("Range") for request in registry.log("api")] == [f"bytes=2000000-{SIZE - 1}"]


def test_a_server_without_ranges_starts_over_and_the_stream_says_so(
    client: RegistryClient, registry: FakeRegistry, reference: Reference
) -> None:
    registry.ranges = False
    with client.open_blob(reference, BLOB, offset=2_000_000) as stream:
        assert (stream.start, _read(stream)) == (0, CONTENT)


def test_the_whole_blob_is_requested_without_a_range(
    client: RegistryClient, registry: FakeRegistry, reference: Reference
) -> None:
    with client.open_blob(reference, BLOB) as stream:
        _read(stream)
    assert "Range" not in registry.log("api")[0].headers


@pytest.mark.parametrize("described", [SIZE - 1, SIZE + 1])
def test_a_size_that_is_not_the_described_one_is_refused_before_a_byte_is_read(
    client: RegistryClient, reference: Reference, described: int
) -> None:
    with pytest.raises(SizeInvalid):
        client.open_blob(reference, Descriptor(BLOB.media_type, BLOB.digest, described))


def test_more_bytes_than_described_are_refused_without_a_content_length(
    client: RegistryClient, registry: FakeRegistry, reference: Reference
) -> None:
    registry.script(faults.faulty(faults.chunked()))
    for described in (SIZE - 1, 1024 * 1024):
        stream = client.open_blob(reference, Descriptor(BLOB.media_type, BLOB.digest, described))
        with stream, pytest.raises(SizeInvalid):
            _read(stream)


@pytest.mark.parametrize("count", [0, 1, 1024 * 1024, SIZE - 1])
@pytest.mark.parametrize("chunked", [False, True])
def test_a_blob_that_ends_early_is_truncated(
    client: RegistryClient, registry: FakeRegistry, reference: Reference, count: int, *, chunked: bool
) -> None:
    if chunked:
        registry.script(faults.faulty(faults.chunked()))
    registry.script(faults.faulty(faults.cut_after(count)))
    with client.open_blob(reference, BLOB) as stream, pytest.raises(AnswerTruncated):
        _read(stream)


def test_fewer_bytes_than_described_in_chunks_are_truncated(
    client: RegistryClient, registry: FakeRegistry, reference: Reference
) -> None:
    registry.script(faults.faulty(faults.body(iter([CONTENT[:-1]]))))
    with client.open_blob(reference, BLOB) as stream, pytest.raises(AnswerTruncated):
        _read(stream)


def test_a_reset_connection_is_retryable(client: RegistryClient, registry: FakeRegistry, reference: Reference) -> None:
    registry.script(faults.faulty(faults.reset_after(2_000_000), times=1))
    with client.open_blob(reference, BLOB) as stream, pytest.raises(MirrorError) as caught:
        _read(stream)
    assert caught.value.retryable
    with client.open_blob(reference, BLOB, offset=1_500_000) as stream:
        assert _read(stream) == CONTENT[1_500_000:]


def test_a_missing_blob_is_named(client: RegistryClient, reference: Reference) -> None:
    missing = Descriptor(BLOB.media_type, Digest.of(b"nowhere"), 7)
    with pytest.raises(BlobUnknown, match=str(missing.digest)):
        client.open_blob(reference, missing)


@pytest.mark.parametrize("after", [0, 1_000_000])
def test_a_read_that_waits_is_woken_by_an_interrupt(
    client: RegistryClient, registry: FakeRegistry, reference: Reference, never: threading.Event, after: int
) -> None:
    """The server never continues, so only the interrupt can end the read."""
    registry.script(faults.faulty(faults.held_until(never, after)))
    with client.open_blob(reference, BLOB) as stream, ThreadPoolExecutor(1) as pool:
        if after:
            stream.readinto(memoryview(bytearray(after)))
        reading = pool.submit(_read, stream)
        stream.interrupt()
        with pytest.raises(SourceError):
            reading.result()


def test_an_interrupt_does_not_reach_the_next_user_of_the_connection(
    client: RegistryClient, registry: FakeRegistry, reference: Reference
) -> None:
    with client.open_blob(reference, BLOB) as first:
        _read(first)
        with client.open_blob(reference, BLOB) as second:
            first.interrupt()
            assert _read(second) == CONTENT
    assert registry.connections["api"] == 1


def test_an_interrupt_after_the_end_does_nothing(client: RegistryClient, reference: Reference) -> None:
    stream = client.open_blob(reference, BLOB)
    stream.close()
    stream.interrupt()
    stream.close()
