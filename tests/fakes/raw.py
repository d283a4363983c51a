"""A server below HTTP: it reads a request's head and sends the bytes that it was given."""

from __future__ import annotations

import socketserver
import threading
from functools import partial
from typing import Self


class RawServer(socketserver.ThreadingTCPServer):
    """Sends *answer* to every request, then closes; *answer* may be changed while it runs."""

    daemon_threads = True
    block_on_close = False
    allow_reuse_address = True

    def __init__(self, answer: bytes = b"") -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answer = answer

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
        while self.rfile.readline(65536).strip():
            pass
        self.wfile.write(self.server.answer)
