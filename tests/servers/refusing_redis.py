"""A Redis on a real socket that refuses everything with one answer, for what no test can make a real one say."""

from __future__ import annotations

import socketserver
import threading
from typing import Any, Final, Self

_HANDSHAKE: Final = {b"HELLO", b"CLIENT", b"AUTH", b"SELECT"}


class RefusingRedis(socketserver.ThreadingTCPServer):
    """Lets clients connect, and answers every command with *answer*, such as ``LOADING …``."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, answer: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
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


class _Handler(socketserver.StreamRequestHandler):
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
