"""Whatever a server sends, every failure is one of `mirror.errors`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import partial

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mirror.errors import MirrorError
from mirror.oci.descriptor import Descriptor
from mirror.oci.digest import Digest
from mirror.oci.reference import Reference
from mirror.registry.client import RegistryClient
from tests.integration.registry.conftest import MakeClient, get_manifest
from tests.support.fakes.sockets import RawServer

CONTENT = b"0123456789"
BLOB = Descriptor("application/octet-stream", Digest.of(CONTENT), len(CONTENT))
HEAD = b"HTTP/1.1 200 OK\r\n"

BROKEN = {
    "nothing at all": b"",
    "no HTTP": b"SSH-2.0-OpenSSH_9.6\r\n",
    "TLS where none was asked for": b"\x15\x03\x01\x00\x02\x02\x46",
    "zeros": bytes(4096),
    "half a status line": b"HTTP/1.1 20",
    "no status": b"HTTP/1.1\r\n\r\n",
    "a status that is no number": b"HTTP/1.1 abc OK\r\n\r\n",
    "a status below 100": b"HTTP/1.1 099 ?\r\nContent-Length: 0\r\n\r\n",
    "a status of four digits": b"HTTP/1.1 2000 OK\r\nContent-Length: 0\r\n\r\n",
    "another version": b"HTTP/9.9 200 OK\r\nContent-Length: 0\r\n\r\n",
    "an endless status line": b"HTTP/1.1 200 " + b"a" * 200_000,
    "an endless header": HEAD + b"X: " + b"a" * 200_000,
    "too many headers": HEAD + b"".join(b"X-%d: a\r\n" % n for n in range(500)) + b"\r\n",
    "headers that never end": HEAD + b"X: a\r\n",
    "a header with a NUL": HEAD + b"X: \x00\r\nContent-Length: 10\r\n\r\n" + CONTENT[:-1],
    "only informational answers": b"HTTP/1.1 100 Continue\r\n\r\n" * 50,
    "a protocol switch": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\n\r\n",
    "a negative length": HEAD + b"Content-Length: -5\r\n\r\n",
    "a length that is no number": HEAD + b"Content-Length: ten\r\n\r\n",
    "two lengths": HEAD + b"Content-Length: 10\r\nContent-Length: 9\r\n\r\n" + CONTENT,
    "two lengths in one": HEAD + b"Content-Length: 10, 9\r\n\r\n" + CONTENT,
    "a chunk size that is no number": HEAD + b"Transfer-Encoding: chunked\r\n\r\nxyz\r\n",
    "a negative chunk": HEAD + b"Transfer-Encoding: chunked\r\n\r\n-5\r\nabcde\r\n0\r\n\r\n",
    "a huge chunk": HEAD + b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffffffffffff\r\nabc",
    "an endless chunk size": HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + b"1" * 200_000,
    "chunks without an end": HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\n01234\r\n",
    "no chunk after the headers": HEAD + b"Transfer-Encoding: chunked\r\n\r\n",
    "a compression that is none": HEAD + b"Content-Encoding: gzip\r\nContent-Length: 3\r\n\r\nabc",
    "an unknown compression": HEAD + b"Content-Encoding: br, x\r\nContent-Length: 3\r\n\r\nabc",
    "a redirect to nowhere": b"HTTP/1.1 307 Go\r\nLocation: \r\nContent-Length: 0\r\n\r\n",
    "a redirect to blanks": b"HTTP/1.1 307 Go\r\nLocation: http:// /\r\nContent-Length: 0\r\n\r\n",
    "a redirect in bytes": b"HTTP/1.1 307 Go\r\nLocation: https://\xff\xfe/\xe4\r\nContent-Length: 0\r\n\r\n",
    "a redirect to a long name": b"HTTP/1.1 307 Go\r\nLocation: https://" + b"a" * 300 + b".example/\r\n\r\n",
    "a redirect to an empty label": b"HTTP/1.1 307 Go\r\nLocation: https://a..example/\r\n\r\n",
    "a login with nothing": b"HTTP/1.1 401 No\r\nContent-Length: 0\r\n\r\n",
    "a login at an odd realm": b'HTTP/1.1 401 No\r\nWWW-Authenticate: Bearer realm="https://[::1"\r\n\r\n',
    "a login at a realm in bytes": b'HTTP/1.1 401 No\r\nWWW-Authenticate: Bearer realm="https://\xe4\xff/"\r\n\r\n',
}


@pytest.fixture
def server() -> Iterator[RawServer]:
    with RawServer() as running:
        yield running


@pytest.fixture
def reference(server: RawServer) -> Reference:
    return Reference.parse(f"{server.host}/team/app:1")


@pytest.fixture
def client(client_of: MakeClient, server: RawServer) -> RegistryClient:
    return client_of(insecure_registries=frozenset({server.host}))


def _read_blob(client: RegistryClient, reference: Reference, *, offset: int = 0) -> bytes:
    with client.open_blob(reference, BLOB, offset=offset) as stream:
        buffer, found = memoryview(bytearray(100)), b""
        while count := stream.readinto(buffer):
            found += buffer[:count]
        return found


@pytest.mark.parametrize(
    "header",
    [
        b"nonsense",
        b"Content-Length: " + b"9" * 5000,
        "Content-Length: ٣".encode(),
        b"Content-Length: 10\r\nX: " + b"a" * 60000,
    ],
    ids=["no colon", "a huge length", "a length in other digits", "a long value"],
)
def test_an_odd_header_does_not_change_the_bytes(
    server: RawServer, client: RegistryClient, reference: Reference, header: bytes
) -> None:
    server.answer = HEAD + header + b"\r\n\r\n" + CONTENT
    assert _read_blob(client, reference) == CONTENT


@pytest.mark.parametrize("answer", BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_response_for_a_blob_is_a_mirror_error(
    server: RawServer, client: RegistryClient, reference: Reference, answer: bytes
) -> None:
    server.answer = answer
    for offset in (0, 5):
        with pytest.raises(MirrorError):
            _read_blob(client, reference, offset=offset)


@pytest.mark.parametrize("answer", BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_response_for_a_manifest_is_a_mirror_error_or_fails_its_digest(
    server: RawServer, client: RegistryClient, reference: Reference, answer: bytes
) -> None:
    server.answer = answer
    asked = Reference(reference.registry, reference.repository, None, Digest.of(b"another manifest"))
    with pytest.raises(MirrorError):
        get_manifest(client, asked)
    with contextlib.suppress(MirrorError):
        client.head_manifest(asked)


pieces = st.sampled_from(
    [
        b"HTTP/1.1 200 OK", b"HTTP/1.1 206 Partial", b"HTTP/1.1 307 Go", b"HTTP/1.1 401 No", b"HTTP/1.0 200 OK",
        b"\r\n", b"\r\n\r\n", b"\n", b" ", b":", b",", b'"', b"\x00", b"\xff", b"0", b"5", b"a", b"Content-Length: 10",
        b"Content-Length: ", b"Transfer-Encoding: chunked", b"Content-Range: bytes 5-9/10", b"Location: ", b"https://",
        b"127.0.0.1", b"WWW-Authenticate: Bearer realm=", b"Connection: close", b"Content-Encoding: deflate",
        b"Docker-Content-Digest: sha256:", CONTENT,
    ]
)  # fmt: skip


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(answer=st.lists(pieces, max_size=14).map(b"".join))
def test_responses_of_random_http_parts_raise_only_mirror_errors(
    server: RawServer, client: RegistryClient, reference: Reference, answer: bytes
) -> None:
    server.answer = answer
    for ask in (client.head_manifest, partial(get_manifest, client)):
        with contextlib.suppress(MirrorError):
            ask(reference)
    with contextlib.suppress(MirrorError):
        assert len(_read_blob(client, reference)) == BLOB.size
