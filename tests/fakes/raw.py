"""A server below HTTP: it reads a request's head and sends the bytes that it was given, or makes them from the head."""

from __future__ import annotations

import socketserver
import threading
from collections.abc import Callable
from functools import partial
from typing import Self


class RawServer(socketserver.ThreadingTCPServer):
    """Sends *answer* to every request, then closes; *answer* may be changed while it runs.

    With *keeps_open* the connection is closed by the client alone.
    """

    daemon_threads = True
    block_on_close = False
    allow_reuse_address = True

    def __init__(self, answer: bytes | Callable[[bytes], bytes] = b"", *, keeps_open: bool = False) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
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
        """A client that goes away is what some tests are about."""


class _Handler(socketserver.StreamRequestHandler):
    server: RawServer

    def handle(self) -> None:
        while head := self._head():
            self.wfile.write(self.server.answer if isinstance(self.server.answer, bytes) else self.server.answer(head))
            if not self.server.keeps_open:
                return

    def _head(self) -> bytes:
        """The request's line and headers. Empty at the connection's end."""
        lines: list[bytes] = []
        while line := self.rfile.readline(65536):
            lines.append(line)
            if not line.strip():
                break
        return b"".join(lines)
