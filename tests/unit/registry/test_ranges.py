"""Ranges of a blob: exactly the bytes that were asked for, or the whole blob and a stream that says so."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mirror.errors import AnswerTruncated, SizeInvalid, SourceFailed
from mirror.oci.descriptor import Descriptor
from mirror.oci.digest import Digest
from mirror.oci.reference import Reference
from mirror.registry.blob_stream import BlobStream
from mirror.registry.client import RegistryClient
from tests.fakes import faults
from tests.fakes.content import Synthetic
from tests.fakes.registry import FakeRegistry
from tests.unit.registry.conftest import REPOSITORY

SIZE = 2 * 1024 * 1024 + 17
CONTENT = b"".join(Synthetic(SIZE).pieces(0, SIZE))
BLOB = Descriptor("application/octet-stream", Digest.of(CONTENT), SIZE)


@pytest.fixture(autouse=True)
def _held(registry: FakeRegistry) -> None:
    registry.put_blob(REPOSITORY, BLOB.digest, Synthetic(SIZE))


def read(stream: BlobStream) -> bytes:
    """Everything up to the end that `readinto` tells."""
    buffer, whole = memoryview(bytearray(1024 * 1024)), bytearray()
    while count := stream.readinto(buffer):
        whole += buffer[:count]
    return bytes(whole)


@pytest.mark.parametrize(
    ("offset", "length"), [(0, 1), (0, SIZE - 1), (1, SIZE - 1), (1_000_000, 1_000_000), (SIZE - 1, 1), (7, 0)]
)
def test_a_range_is_its_bytes_and_no_more(
    client: RegistryClient, registry: FakeRegistry, reference: Reference, offset: int, length: int
) -> None:
    with client.open_blob(reference, BLOB, offset=offset, length=length) as stream:
        first = offset - stream.start
        assert read(stream)[first : first + length] == CONTENT[offset : offset + length]
    if length:
        assert (stream.start, stream.length) == (offset, length)
        assert registry.log("api")[0].headers["Range"] == f"bytes={offset}-{offset + length - 1}"


def test_the_whole_blob_is_asked_for_without_a_range(
    client: RegistryClient, registry: FakeRegistry, reference: Reference
) -> None:
    with client.open_blob(reference, BLOB, length=SIZE) as stream:
        assert (stream.start, stream.length, read(stream)) == (0, SIZE, CONTENT)
    assert "Range" not in registry.log("api")[0].headers


@pytest.mark.parametrize(("offset", "length"), [(-1, 5), (0, SIZE + 1), (SIZE, 1), (5, -1)])
def test_no_range_beyond_the_blob_is_asked_for(
    client: RegistryClient, registry: FakeRegistry, reference: Reference, offset: int, length: int
) -> None:
    with pytest.raises(ValueError, match="not within"):
        client.open_blob(reference, BLOB, offset=offset, length=length)
    assert not registry.log()


def test_a_server_without_ranges_sends_the_whole_blob_and_the_stream_says_so(
    client: RegistryClient, registry: FakeRegistry, reference: Reference
) -> None:
    registry.ranges = False
    with client.open_blob(reference, BLOB, offset=1000, length=1000) as stream:
        assert (stream.start, stream.length, read(stream)) == (0, SIZE, CONTENT)


def test_a_range_that_is_sent_with_status_200_is_known_by_its_content_range(
    client: RegistryClient, registry: FakeRegistry, reference: Reference
) -> None:
    registry.script(lambda _, reply: replace(reply, status=200))
    with client.open_blob(reference, BLOB, offset=1000, length=1000) as stream:
        assert (stream.start, stream.length, read(stream)) == (1000, 1000, CONTENT[1000:2000])


@pytest.mark.parametrize("status", [200, 206])
@pytest.mark.parametrize(
    "content_range",
    ["", f"bytes 1000-{SIZE - 1}/{SIZE}", f"bytes 1000-2000/{SIZE}", f"bytes 1000-1999/{SIZE + 1}", "bytes 0-999/1000"],
)
def test_another_range_than_asked_for_is_refused(
    client: RegistryClient, registry: FakeRegistry, reference: Reference, content_range: str, status: int
) -> None:
    told = faults.header("Content-Range", content_range)
    registry.script(faults.faulty(lambda reply: replace(told(reply), status=status)))
    with pytest.raises(SourceFailed, match="range"):
        client.open_blob(reference, BLOB, offset=1000, length=1000)


def test_a_length_that_is_not_the_ranges_is_refused_before_a_byte_is_read(
    client: RegistryClient, registry: FakeRegistry, reference: Reference
) -> None:
    registry.script(faults.faulty(faults.too_long()))
    with pytest.raises(SizeInvalid):
        client.open_blob(reference, BLOB, offset=1000, length=1000)


def test_more_bytes_than_the_range_are_refused_where_no_length_was_told(
    client: RegistryClient, registry: FakeRegistry, reference: Reference
) -> None:
    registry.script(faults.faulty(faults.body(iter([CONTENT[1000:2001]]))))
    with client.open_blob(reference, BLOB, offset=1000, length=1000) as stream, pytest.raises(SizeInvalid):
        read(stream)


def test_a_range_that_ends_early_is_never_taken_for_whole(
    client: RegistryClient, registry: FakeRegistry, reference: Reference
) -> None:
    registry.script(faults.faulty(faults.cut_after(999)))
    with client.open_blob(reference, BLOB, offset=1000, length=1000) as stream, pytest.raises(AnswerTruncated):
        read(stream)


def test_a_range_whose_bytes_were_all_read_gives_its_connection_back(
    client: RegistryClient, registry: FakeRegistry, reference: Reference
) -> None:
    """Not even the read that answers 0 is needed."""
    buffer = memoryview(bytearray(1000))
    for offset in range(0, 5000, 1000):
        with client.open_blob(reference, BLOB, offset=offset, length=1000) as stream:
            assert stream.readinto(buffer) == 1000
            assert buffer == CONTENT[offset : offset + 1000]
    assert registry.connections["api"] == 1
