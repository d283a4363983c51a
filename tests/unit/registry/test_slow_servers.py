"""Servers that send a byte now and then, which no timeout between two reads ever ends."""

from __future__ import annotations

import socketserver
import threading
from collections.abc import Iterator
from functools import partial

import pytest

from mirror.errors import AnswerTruncated, SourceUnreachable
from mirror.oci.reference import Reference
from mirror.registry.stalls import StallWatch
from tests.unit.registry.conftest import MakeClient

TRICKLE_SECONDS = 0.01


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give up after moments instead of a minute, and long before the timeout between two reads."""
    monkeypatch.setattr("mirror.registry.transport.StallWatch", partial(StallWatch, 0.2))


class Trickle(socketserver.ThreadingTCPServer):
    """Sends *head* at once, and then one ``a`` after the other for as long as anybody listens."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, head: bytes) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.head = head
        self.over = threading.Event()

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.server_address[1]}"


class _Handler(socketserver.StreamRequestHandler):
    server: Trickle

    def handle(self) -> None:
        while self.rfile.readline() not in (b"\r\n", b""):
            continue
        try:
            self.wfile.write(self.server.head)
            while not self.server.over.wait(TRICKLE_SECONDS):
                self.wfile.write(b"a")
        except OSError:
            return  # the client has had enough


@pytest.fixture
def trickle(request: pytest.FixtureRequest) -> Iterator[Trickle]:
    with Trickle(request.param) as server:
        threading.Thread(target=partial(server.serve_forever, 0.01), daemon=True).start()
        yield server
        server.over.set()
        server.shutdown()


@pytest.mark.parametrize(
    "trickle",
    [
        pytest.param(b"", id="a status line"),
        pytest.param(b"HTTP/1.1 200 OK\r\nX: ", id="a header"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n", id="a body"),
    ],
    indirect=True,
)
def test_a_manifest_that_trickles_in_is_given_up(trickle: Trickle, client_of: MakeClient) -> None:
    client = client_of(insecure_registries=frozenset({trickle.host}))
    with pytest.raises((SourceUnreachable, AnswerTruncated)):
        client.get_manifest(Reference.parse(f"{trickle.host}/team/app:1"))
