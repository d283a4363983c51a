"""Servers on plain sockets: given bytes, a drip, and a Redis that refuses."""

from __future__ import annotations

import select
import socket
import socketserver
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, Final, Self


class RawServer(socketserver.ThreadingTCPServer):
    """Sends the bytes *answer* to every request and closes the connection.

    *answer* may also make them from the request's head, and may be changed at any time. With *keeps_open* only the
    client closes the connection.
    """

    daemon_threads = True
    block_on_close = False
    allow_reuse_address = True

    def __init__(self, answer: bytes | Callable[[bytes], bytes] = b"", *, keeps_open: bool = False) -> None:
        super().__init__(("127.0.0.1", 0), _RawHandler)
        self.answer = answer
        self.keeps_open = keeps_open

    def __enter__(self) -> Self:
        threading.Thread(target=partial(self.serve_forever, 0.01), name="fake-raw", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.server_address[1]}"

    def handle_error(self, *_: object) -> None:
        """Ignore clients that close the connection. Some tests do that."""


class _RawHandler(socketserver.StreamRequestHandler):
    server: RawServer

    def handle(self) -> None:
        while head := self._head():
            self.wfile.write(self.server.answer if isinstance(self.server.answer, bytes) else self.server.answer(head))
            if not self.server.keeps_open:
                return

    def _head(self) -> bytes:
        """Read the request line and headers. They are empty at the end of the connection."""
        lines: list[bytes] = []
        while line := self.rfile.readline(65536):
            lines.append(line)
            if not line.strip():
                break
        return b"".join(lines)


SECONDS: Final = 0.01
"""Seconds between two bytes, shorter than any timeout of one read."""


class DrippingServer(socketserver.ThreadingTCPServer):
    """Sends *head*, then *drip* every few *seconds*, and counts its listeners.

    With *at_once* it starts before a request arrives, as a server that drips in the TLS handshake does. If `look` is
    set, a HEAD gets these bytes instead, and the connection stays open.
    """

    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, head: bytes, drip: bytes = b"a", *, seconds: float = SECONDS, at_once: bool = False) -> None:
        super().__init__(("127.0.0.1", 0), _DrippingHandler)
        self.head = head
        self.drip = drip
        self.seconds = seconds
        self.at_once = at_once
        self.look = b""
        self.accepted = 0
        self.listeners = 0
        """Connections with a response under way that the client has neither closed nor shut down."""
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
        """Ignore clients that close the connection, which the tests want."""


class _DrippingHandler(socketserver.BaseRequestHandler):
    server: DrippingServer
    request: socket.socket

    def handle(self) -> None:
        with self.server.lock:
            self.server.accepted += 1
        with suppress(OSError):  # a reset means the same as an end
            while not self.server.at_once and self._is_look():
                self.request.sendall(self.server.look)
        with self._listener(), suppress(OSError):
            self.request.sendall(self.server.head)
            while not self._is_left():
                self.request.sendall(self.server.drip)

    def _is_look(self) -> bool:
        """Read the next request. Return whether it is a HEAD that gets `look`."""
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
        """Wait until the next byte is due.

        Return whether the client or the test has ended meanwhile.
        """
        readable, _, _ = select.select([self.request], [], [], self.server.seconds)
        return self.server.over.is_set() or (bool(readable) and not self.request.recv(65536))


_HANDSHAKE: Final = {b"HELLO", b"CLIENT", b"AUTH", b"SELECT"}


class RefusingRedis(socketserver.ThreadingTCPServer):
    """A Redis that refuses every command with *answer*, such as ``LOADING …``."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, answer: str) -> None:
        super().__init__(("127.0.0.1", 0), _RefusingHandler)
        self.answer = answer.encode()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.server_address[1]}/0"

    def __enter__(self) -> Self:
        threading.Thread(target=self.serve_forever, args=[0.01], daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()


class _RefusingHandler(socketserver.StreamRequestHandler):
    server: Any

    def handle(self) -> None:
        while line := self.rfile.readline():
            words = [self._word() for _ in range(int(line[1:]))]
            name = words[0].upper()
            if name == b"HELLO":
                self.wfile.write(b"%1\r\n$5\r\nproto\r\n:3\r\n")
            elif name in _HANDSHAKE:
                self.wfile.write(b"+OK\r\n")
            else:
                self.wfile.write(b"-" + self.server.answer + b"\r\n")

    def _word(self) -> bytes:
        length = int(self.rfile.readline()[1:])
        return self.rfile.read(length + 2)[:-2]
