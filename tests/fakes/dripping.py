"""A server that answers a byte now and then, for as long as anybody listens, and counts who still does."""

from __future__ import annotations

import select
import socket
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Final, Self

SECONDS: Final = 0.01
"""Between two bytes: shorter than any timeout between two reads."""


class DrippingServer(socketserver.ThreadingTCPServer):
    """Sends *head* at once, then *drip* again and again, each time after *seconds*.

    With *at_once* it does so before a request has come, as a server does that drips in the TLS handshake. `look` is
    what a HEAD is answered with instead, if anything, and then its connection goes on.
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
        self.look = b""
        self.accepted = 0
        self.listeners = 0
        """Connections with an answer under way that the client has neither closed nor shut down."""
        self.over = threading.Event()
        self.lock = threading.Lock()

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.server_address[1]}"

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
            while not self.server.at_once and self._is_look():
                self.request.sendall(self.server.look)
        with self._listener(), suppress(OSError):
            self.request.sendall(self.server.head)
            while not self._is_left():
                self.request.sendall(self.server.drip)

    def _is_look(self) -> bool:
        """Wait for the next request; whether it is a HEAD that has an answer of its own."""
        received = b""
        while b"\r\n\r\n" not in received:
            piece = self.request.recv(65536)
            if not piece:
                return False
            received += piece
        return received.startswith(b"HEAD") and bool(self.server.look)

    @contextmanager
    def _listener(self) -> Iterator[None]:
        with self.server.lock:
            self.server.listeners += 1
        yield
        with self.server.lock:
            self.server.listeners -= 1

    def _is_left(self) -> bool:
        """Wait for the next byte's time; whether the client, or the test, has ended meanwhile."""
        readable, _, _ = select.select([self.request], [], [], self.server.seconds)
        return self.server.over.is_set() or (bool(readable) and not self.request.recv(65536))
