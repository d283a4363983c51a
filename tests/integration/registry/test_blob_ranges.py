"""Ranges of a blob: exactly the requested bytes, or a stream that says otherwise."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mirror.errors import (
    AnswerTruncated,
    BlobUnknown,
    Denied,
    RateLimited,
    SizeInvalid,
    SourceError,
    SourceFailed,
)
from mirror.oci.descriptor import Descriptor
from mirror.oci.digest import Digest
from mirror.oci.reference import Reference
from mirror.registry.blobs import SMALLEST_PIECE, BlobResponse
from mirror.registry.client import RegistryClient
from tests.integration.registry.conftest import REPOSITORY
from tests.support.fakes import faults
from tests.support.fakes.registry import FakeRegistry, Reply, Request, Synthetic

SIZE = 2 * 1024 * 1024 + 17
CONTENT = b"".join(Synthetic(SIZE).pieces(0, SIZE))
BLOB = Descriptor("application/octet-stream", Digest.of(CONTENT), SIZE)


@pytest.fixture(autouse=True)
def _stored(registry: FakeRegistry) -> None:
    registry.put_blob(REPOSITORY, BLOB.digest, Synthetic(SIZE))


def whole(content: Synthetic) -> bytes:
    return b"".join(content.pieces(0, content.size))


def ranges_asked(registry: FakeRegistry, server: str = "api") -> list[str | None]:
    """Return the Range of each request so far, None for none."""
    return [request.headers.get("Range") for request in registry.log(server)]


def only_with_a_range(change: faults.Change, *, server: str | None = None) -> faults.Script:
    """Change only the replies to requests with a Range."""
    changed = faults.faulty(change, server=server)

    def script(request: Request, reply: Reply) -> Reply | None:
        return changed(request, reply) if "Range" in request.headers else None

    return script


def read(stream: BlobResponse) -> bytes:
    """Read to the end."""
    buffer, whole = memoryview(bytearray(1024 * 1024)), bytearray()
    while count := stream.readinto(buffer):
        whole += buffer[:count]
    return bytes(whole)


@pytest.mark.parametrize(
    ("offset", "length"), [(0, 1), (0, SIZE - 1), (1, SIZE - 1), (1_000_000, 1_000_000), (SIZE - 1, 1), (7, 0)]
)
def test_a_range_has_exactly_its_bytes(
    client: RegistryClient, registry: FakeRegistry, reference: Reference, offset: int, length: int
) -> None:
    with client.open_blob(reference, BLOB, offset=offset, length=length) as stream:
        first = offset - stream.start
        assert read(stream)[first : first + length] == CONTENT[offset : offset + length]
    if length:
        assert (stream.start, stream.length) == (offset, length)
        assert registry.log("api")[0].headers["Range"] == f"bytes={offset}-{offset + length - 1}"


def test_a_range_of_the_whole_blob_sends_no_range_header(
    client: RegistryClient, registry: FakeRegistry, reference: Reference
) -> None:
    with client.open_blob(reference, BLOB, length=SIZE) as stream:
        assert (stream.start, stream.length, read(stream)) == (0, SIZE, CONTENT)
    assert "Range" not in registry.log("api")[0].headers


@pytest.mark.parametrize(("offset", "length"), [(-1, 5), (0, SIZE + 1), (SIZE, 1), (5, -1)])
def test_a_range_outside_the_blob_is_a_value_error(
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


def test_a_range_with_status_200_is_recognised_by_its_content_range(
    client: RegistryClient, registry: FakeRegistry, reference: Reference
) -> None:
    registry.script(lambda _, reply: replace(reply, status=200))
    with client.open_blob(reference, BLOB, offset=1000, length=1000) as stream:
        assert (stream.start, stream.length, read(stream)) == (1000, 1000, CONTENT[1000:2000])


WRONG = [
    None,
    "",
    f"bytes 1000-{SIZE - 1}/{SIZE}",
    f"bytes 0-{SIZE - 1}/{SIZE}",
    f"bytes 1000-2000/{SIZE}",
    f"bytes 999-1998/{SIZE}",
    f"bytes 1001-2000/{SIZE}",
    f"bytes 1000-1998/{SIZE}",
    f"bytes 1000-1999/{SIZE + 1}",
    "bytes 0-999/1000",
    f"bytes 1999-1000/{SIZE}",
    f"bytes {SIZE}-{SIZE + 999}/{SIZE}",
    f"bytes */{SIZE}",
    f"pages 1000-1999/{SIZE}",
    f"bytes 1000-1999/{SIZE}, bytes 0-1/2",
    "bytes 1000-" + "9" * 5000 + "/*",
]


@pytest.mark.parametrize("status", [200, 206])
@pytest.mark.parametrize("content_range", WRONG)
def test_another_range_than_requested_is_not_used_and_the_whole_blob_is_read(
    client: RegistryClient, registry: FakeRegistry, reference: Reference, content_range: str | None, status: int
) -> None:
    """The script also changes the reply without a range. Its Content-Range is ignored."""
    content_range_header = faults.header("Content-Range", content_range)
    registry.script(faults.faulty(lambda reply: replace(content_range_header(reply), status=status)))
    with client.open_blob(reference, BLOB, offset=1000, length=1000) as stream:
        assert (stream.start, stream.length, read(stream)) == (0, SIZE, CONTENT)
    assert ranges_asked(registry) == ["bytes=1000-1999", None]


@pytest.mark.parametrize(
    "content_range",
    [
        f"Bytes 1000-1999/{SIZE}",
        f"BYTES 1000-1999/{SIZE}",
        f"bytes=1000-1999/{SIZE}",
        f"bytes: 1000-1999/{SIZE}",
        f"bytes  1000 - 1999 / {SIZE}",
        f"  bytes 1000-1999/{SIZE}  ",
        f"bytes 1000-1999/{SIZE}, bytes 1000-1999/{SIZE}",
        "bytes 1000-1999/*",
        "bytes 1000-1999/",
        "bytes 1000-1999",
    ],
)
def test_a_content_range_is_parsed_in_all_spellings(
    client: RegistryClient, registry: FakeRegistry, reference: Reference, content_range: str
) -> None:
    registry.script(faults.faulty(faults.header("Content-Range", content_range)))
    with client.open_blob(reference, BLOB, offset=1000, length=1000) as stream:
        assert (stream.start, stream.length, read(stream)) == (1000, 1000, CONTENT[1000:2000])
    assert len(registry.log("api")) == 1


@pytest.mark.parametrize("times", [1, 3])
def test_a_repeated_content_range_counts_once(
    client: RegistryClient, registry: FakeRegistry, reference: Reference, times: int
) -> None:
    same = [faults.again("Content-Range", f"bytes 1000-1999/{SIZE}")] * times
    registry.script(faults.faulty(faults.both(*same)))
    with client.open_blob(reference, BLOB, offset=1000, length=1000) as stream:
        assert (stream.start, read(stream)) == (1000, CONTENT[1000:2000])


def part(start: int, end: int) -> faults.Change:
    """Reply with that part of the blob, whatever was requested."""

    def change(_: Reply) -> Reply:
        headers = {"Content-Range": f"bytes {start}-{end - 1}/{SIZE}", "Content-Length": str(end - start)}
        return Reply(206, headers, CONTENT[start:end])

    return change


@pytest.mark.parametrize("count", [SMALLEST_PIECE, 500_000])
def test_a_shorter_piece_than_asked_for_is_used(
    client: RegistryClient, registry: FakeRegistry, reference: Reference, count: int
) -> None:
    registry.script(faults.faulty(part(1000, 1000 + count)))
    with client.open_blob(reference, BLOB, offset=1000, length=1_000_000) as stream:
        assert (stream.start, stream.length, read(stream)) == (1000, count, CONTENT[1000 : 1000 + count])
    assert len(registry.log("api")) == 1


def test_a_tiny_piece_is_not_used(client: RegistryClient, registry: FakeRegistry, reference: Reference) -> None:
    """A server that sends one byte per request would occupy a worker for ever."""
    registry.script(only_with_a_range(part(1000, 1001)))
    with client.open_blob(reference, BLOB, offset=1000, length=1_000_000) as stream:
        assert (stream.start, stream.length, read(stream)) == (0, SIZE, CONTENT)


def test_a_longer_piece_than_asked_for_is_used(
    client: RegistryClient, registry: FakeRegistry, reference: Reference
) -> None:
    registry.script(faults.faulty(part(1000, SIZE - 7)))
    with client.open_blob(reference, BLOB, offset=1000, length=1000) as stream:
        assert (stream.start, stream.length, read(stream)) == (1000, SIZE - 1007, CONTENT[1000 : SIZE - 7])


def test_the_whole_blob_may_arrive_as_a_range(
    client: RegistryClient, registry: FakeRegistry, reference: Reference
) -> None:
    registry.script(faults.faulty(part(0, SIZE)))
    for offset, length in ((1000, 1000), (0, SIZE)):
        with client.open_blob(reference, BLOB, offset=offset, length=length) as stream:
            assert (stream.start, stream.length, read(stream)) == (0, SIZE, CONTENT)
    assert len(registry.log("api")) == 2


def test_a_first_piece_is_accepted_when_the_whole_blob_was_requested(
    client: RegistryClient, registry: FakeRegistry, reference: Reference
) -> None:
    registry.script(faults.faulty(part(0, 1_000_000)))
    with client.open_blob(reference, BLOB) as stream:
        assert (stream.start, stream.length, read(stream)) == (0, 1_000_000, CONTENT[:1_000_000])


def test_several_ranges_in_one_body_are_not_used(
    client: RegistryClient, registry: FakeRegistry, reference: Reference
) -> None:
    body = b"--x\r\nContent-Range: bytes 1000-1999/%d\r\n\r\n%b\r\n--x--" % (SIZE, CONTENT[1000:2000])
    several = Reply(206, {"Content-Type": "multipart/byteranges; boundary=x"}, body)
    registry.script(only_with_a_range(lambda _: several))
    with client.open_blob(reference, BLOB, offset=1000, length=1000) as stream:
        assert (stream.start, read(stream)) == (0, CONTENT)


def test_a_range_of_a_blob_of_another_size_is_refused(
    client: RegistryClient, reference: Reference, registry: FakeRegistry
) -> None:
    for described in (SIZE - 1, SIZE + 1):
        with pytest.raises(SizeInvalid):
            client.open_blob(reference, replace(BLOB, size=described), offset=described - 1000, length=1000)


def test_a_wrongly_described_blob_does_not_stop_ranges_of_others(
    client: RegistryClient, reference: Reference, registry: FakeRegistry
) -> None:
    """Otherwise one user of a registry could slow down all others."""
    for size, offset in ((SIZE + 2000, SIZE + 1000), (SIZE + 1, 1000), (SIZE - 1, 1000)):
        with pytest.raises(SizeInvalid):
            client.open_blob(reference, replace(BLOB, size=size), offset=offset, length=1000)
        with client.open_blob(reference, BLOB, offset=1000, length=1000) as stream:
            assert stream.start == 1000


@pytest.mark.parametrize("status", [200, 206])
def test_an_empty_body_for_a_range_is_refused(
    client: RegistryClient, registry: FakeRegistry, reference: Reference, status: int
) -> None:
    registry.script(only_with_a_range(faults.status(status)))
    with client.open_blob(reference, BLOB, offset=1000, length=1000) as stream:
        assert (stream.start, read(stream)) == (0, CONTENT)


def test_an_empty_body_for_a_blob_with_bytes_is_refused(
    client: RegistryClient, registry: FakeRegistry, reference: Reference
) -> None:
    registry.script(faults.faulty(faults.status(200)))
    for offset in (0, 1000):
        with pytest.raises(SizeInvalid, match="has 0"):
            client.open_blob(reference, BLOB, offset=offset)


REFUSING = [400, 403, 405, 406, 412, 415, 416, 422, 501]


@pytest.mark.parametrize("status", REFUSING)
def test_a_server_that_refuses_ranges_is_sent_one_range_only(
    client: RegistryClient, registry: FakeRegistry, reference: Reference, status: int
) -> None:
    registry.script(only_with_a_range(faults.status(status)))
    for offset in (1000, 2_000_000):
        with client.open_blob(reference, BLOB, offset=offset, length=1000) as stream:
            assert (stream.start, stream.length, read(stream)) == (0, SIZE, CONTENT)
    assert ranges_asked(registry) == ["bytes=1000-1999", None, None]


@pytest.mark.parametrize("status", REFUSING)
def test_storage_that_refuses_ranges_is_sent_one_range_only(
    client: RegistryClient, registry: FakeRegistry, reference: Reference, status: int
) -> None:
    """The storage is remembered, not the registry: its requests keep their Range."""
    registry.redirect_blobs = True
    registry.script(only_with_a_range(faults.status(status), server="cdn"))
    other = Synthetic(SIZE, "other")
    registry.put_blob(REPOSITORY, other.digest, other)
    for blob, content in ((BLOB, CONTENT), (Descriptor(BLOB.media_type, other.digest, SIZE), whole(other))):
        with client.open_blob(reference, blob, offset=1000, length=1000) as stream:
            assert (stream.start, read(stream)) == (0, content)
    assert ranges_asked(registry, "cdn") == ["bytes=1000-1999", None, None]
    assert ranges_asked(registry) == ["bytes=1000-1999"] * 2


def test_a_registry_that_refuses_ranges_may_redirect_to_storage_that_serves_them(
    client: RegistryClient, registry: FakeRegistry, reference: Reference
) -> None:
    registry.redirect_blobs = True
    registry.script(only_with_a_range(faults.status(400), server="api"))
    with client.open_blob(reference, BLOB, offset=1000, length=1000) as stream:
        assert (stream.start, read(stream)) == (1000, CONTENT[1000:2000])
    assert ranges_asked(registry, "cdn") == ["bytes=1000-1999"]


@pytest.mark.parametrize(("status", "error"), [(403, Denied), (400, SourceFailed), (501, SourceFailed)])
def test_a_request_that_is_refused_without_its_range_too_fails(
    client: RegistryClient, registry: FakeRegistry, reference: Reference, status: int, error: type[SourceError]
) -> None:
    registry.script(faults.faulty(faults.status(status)))
    with pytest.raises(error):
        client.open_blob(reference, BLOB, offset=1000, length=1000)
    assert ranges_asked(registry)[:2] == ["bytes=1000-1999", None]
    registry.scripts.clear()
    with client.open_blob(reference, BLOB, offset=1000, length=1000) as stream:
        assert stream.start == 1000


@pytest.mark.parametrize(("status", "error"), [(404, BlobUnknown), (429, RateLimited), (410, SourceFailed)])
def test_a_refusal_for_another_reason_is_not_retried_without_the_range(
    client: RegistryClient, registry: FakeRegistry, reference: Reference, status: int, error: type[SourceError]
) -> None:
    registry.script(faults.faulty(faults.status(status)))
    with pytest.raises(error):
        client.open_blob(reference, BLOB, offset=1000, length=1000)
    assert ranges_asked(registry) == ["bytes=1000-1999"]


def test_a_content_length_that_differs_from_the_range_is_refused_before_reading(
    client: RegistryClient, registry: FakeRegistry, reference: Reference
) -> None:
    registry.script(faults.faulty(faults.too_long()))
    with pytest.raises(SizeInvalid):
        client.open_blob(reference, BLOB, offset=1000, length=1000)


def test_more_bytes_than_the_range_are_refused_without_a_content_length(
    client: RegistryClient, registry: FakeRegistry, reference: Reference
) -> None:
    registry.script(faults.faulty(faults.body(iter([CONTENT[1000:2001]]))))
    with client.open_blob(reference, BLOB, offset=1000, length=1000) as stream, pytest.raises(SizeInvalid):
        read(stream)


def test_a_range_that_ends_early_is_truncated(
    client: RegistryClient, registry: FakeRegistry, reference: Reference
) -> None:
    registry.script(faults.faulty(faults.cut_after(999)))
    with client.open_blob(reference, BLOB, offset=1000, length=1000) as stream, pytest.raises(AnswerTruncated):
        read(stream)


def test_a_range_that_was_read_completely_returns_its_connection(
    client: RegistryClient, registry: FakeRegistry, reference: Reference
) -> None:
    """The last read, which returns 0, is not needed for that."""
    buffer = memoryview(bytearray(1000))
    for offset in range(0, 5000, 1000):
        with client.open_blob(reference, BLOB, offset=offset, length=1000) as stream:
            assert stream.readinto(buffer) == 1000
            assert buffer == CONTENT[offset : offset + 1000]
    assert registry.connections["api"] == 1
