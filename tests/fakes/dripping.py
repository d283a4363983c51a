"""A server that answers a byte now and then, for as long as anybody listens, and counts who still does."""

from __future__ import annotations

import select
import socket
import socketserver
import threading
from contextlib import suppress
from functools import partial
from typing import Final, Self

SECONDS: Final = 0.01
"""Between two bytes: shorter than any timeout between two reads."""


class DrippingServer(socketserver.ThreadingTCPServer):
    """Sends *head* at once, then *drip* again and again, each time after *seconds*.

    With *at_once* it does so before a request has come, as a server does that drips in the TLS handshake.
    """

    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, head: bytes, drip: bytes = b"a", *, seconds: float = SECONDS, at_once: bool = False) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.head = head
        self.drip = drip
        self.seconds = seconds
        self.at_once = at_once
        self.accepted = 0
        self.ended = 0
        self.over = threading.Event()
        self.lock = threading.Lock()

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.server_address[1]}"

    @property
    def listeners(self) -> int:
        """Connections that the client has neither closed nor shut down."""
        with self.lock:
            return self.accepted - self.ended

    def __enter__(self) -> Self:
        threading.Thread(target=partial(self.serve_forever, 0.01), name="fake-dripping", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.shutdown()
        self.server_close()

    def handle_error(self, *_: object) -> None:
        """A client that goes away is what the tests are about."""


class _Handler(socketserver.BaseRequestHandler):
    server: DrippingServer
    request: socket.socket

    def handle(self) -> None:
        with self.server.lock:
            self.server.accepted += 1
        with suppress(OSError):  # a reset tells the same as an end
            self._answer()
        with self.server.lock:
            self.server.ended += 1

    def _answer(self) -> None:
        received = b""
        while not self.server.at_once and b"\r\n\r\n" not in received:
            piece = self.request.recv(65536)
            if not piece:
                return
            received += piece
        self.request.sendall(self.server.head)
        while not self._is_left():
            self.request.sendall(self.server.drip)

    def _is_left(self) -> bool:
        """Wait for the next byte's time; whether the client, or the test, has ended meanwhile."""
        readable, _, _ = select.select([self.request], [], [], self.server.seconds)
        return self.server.over.is_set() or (bool(readable) and not self.request.recv(65536))
