"""An HTTP server on a real loopback socket.

Replies are delayed with gates (events), never with sleeps.
"""

from __future__ import annotations

import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final, Self
from urllib.parse import parse_qs, urlsplit

_PIECE: Final = 64 * 1024


@dataclass(frozen=True)
class Request:
    """A request that the server *server* has received."""

    server: str
    method: str
    path: str
    query: dict[str, list[str]]
    headers: dict[str, str]
    body: bytes = b""


@dataclass
class Reply:
    """A reply, which scripts may change before it is sent.

    The body is bytes or an iterator of pieces. With status 0 the connection is closed without a response.
    """

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | Iterator[bytes] = b""
    cut_after: int | None = None
    """Bytes of the body after which the connection is closed, whatever Content-Length says."""
    reset: bool = False
    """Whether `cut_after` closes with a TCP reset."""
    chunked: bool = False
    """Whether the body is sent in chunks, without a Content-Length."""
    also_to_head: bool = False
    """Whether the body is also sent in response to a HEAD, which violates HTTP."""
    hold: tuple[int, threading.Event] | None = None
    """Bytes of the body after which sending waits, and the event for which it waits."""
    more_headers: list[tuple[str, str]] = field(default_factory=list)
    """Headers that are sent after the others. A name may occur twice."""
    before: bytes = b""
    """Bytes that are sent before the response."""


class HttpServer(ThreadingHTTPServer):
    """An HTTP server that sends the reply of *reply_to* to every request."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def __init__(self, name: str, reply_to: Callable[[Request], Reply], *, tls: ssl.SSLContext | None = None) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.name = name
        self.reply_to = reply_to
        self.connections = 0
        self.closing = threading.Event()
        self._tls = tls

    def __enter__(self) -> Self:
        serve = partial(self.serve_forever, 0.01)
        threading.Thread(target=serve, name=f"fake-{self.name}", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        self.shutdown()
        self.server_close()

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.server_address[1]}"

    def wait_for(self, release: threading.Event) -> None:
        """Wait for *release*, at most until the server closes."""
        while not release.wait(0.05):
            if self.closing.is_set():
                return

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, address = super().get_request()
        self.connections += 1
        return connection, address

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Do the TLS handshake in the connection's thread, without delaying others."""
        if self._tls is None:
            super().finish_request(request, client_address)
            return
        with self._tls.wrap_socket(request, server_side=True) as encrypted:
            super().finish_request(encrypted, client_address)

    def handle_error(self, *_: object) -> None:
        """Ignore clients that close the connection. Some tests do that."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: HttpServer

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        headers = dict(self.headers.items())
        request = Request(self.server.name, self.command, parts.path, parse_qs(parts.query), headers, body)
        self._send(self.server.reply_to(request))

    do_HEAD = do_POST = do_GET

    def log_message(self, *_: object) -> None:
        """Do not log. The registry records the requests."""

    def _send(self, reply: Reply) -> None:
        if reply.status == 0:
            self.close_connection = True
            return
        self.wfile.write(reply.before)
        self.send_response(reply.status)
        if reply.chunked:
            reply.headers = {**reply.headers, "Transfer-Encoding": "chunked"}
            reply.headers.pop("Content-Length", None)
        elif isinstance(reply.body, bytes):
            reply.headers.setdefault("Content-Length", str(len(reply.body)))
        for name, value in reply.headers.items():
            self.send_header(name, value)
        for name, value in reply.more_headers:
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD" or reply.also_to_head:
            self._send_body(reply)

    def _send_body(self, reply: Reply) -> None:
        pieces = _sliced(reply.body) if isinstance(reply.body, bytes) else reply.body
        if reply.hold:
            before, release = reply.hold
            pieces = _waiting(pieces, before, partial(self.server.wait_for, release))
        for piece in _until(pieces, reply.cut_after):
            self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece) if reply.chunked and piece else piece)
            self.wfile.flush()
        if reply.cut_after is not None:
            self.close_connection = True
        elif reply.chunked:
            self.wfile.write(b"0\r\n\r\n")
        if reply.reset:
            self.close_connection = True
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.rfile.close()
            self.connection.close()


def _sliced(body: bytes) -> Iterator[bytes]:
    for start in range(0, len(body), _PIECE):
        yield body[start : start + _PIECE]


def _until(pieces: Iterator[bytes], end: int | None) -> Iterator[bytes]:
    """Yield the first *end* bytes, or all of them."""
    left = end
    for piece in pieces:
        if left is None:
            yield piece
            continue
        yield piece[:left]
        left -= len(piece)
        if left <= 0:
            return


def _waiting(pieces: Iterator[bytes], before: int, wait: Callable[[], None]) -> Iterator[bytes]:
    """Yield all bytes, and call *wait* after the first *before* of them."""
    left: int | None = before
    for piece in pieces:
        if left is None or len(piece) < left:
            left = None if left is None else left - len(piece)
            yield piece
            continue
        yield piece[:left]
        wait()
        yield piece[left:]
        left = None
