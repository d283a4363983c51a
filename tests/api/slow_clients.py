"""Crowds of clients that are slow, each in one way: what stops a server that gives every connection a thread."""

from __future__ import annotations

import http.client
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final, Literal, Self

from tests.api.live_service import WITHIN

Kind = Literal["reading", "sending a head", "sending a body", "idle", "silent"]
_STEP: Final = 1.0
"""Seconds between two small pieces."""
_READ_AT_ONCE: Final = 70
_SMALL_WINDOW: Final = 4096
"""Receive buffer in bytes, so that the answer waits in the server and not in our kernel."""
_BACKLOG: Final = 64
"""Connections that are made before the server had time to accept: fewer than any listen queue holds."""


@dataclass(slots=True)
class Crowd:
    """*count* connections of one kind, which ask for *paths* in turn.

    `alive` is how many the server has not closed yet, and `served` how many have received a part of their answer.
    """

    kind: Kind
    port: int
    count: int
    paths: tuple[str, ...] = ("/livez",)
    token: str = ""
    sockets: list[socket.socket] = field(default_factory=list)
    _served: set[int] = field(default_factory=set)
    _over: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        for number in range(self.count):
            self.sockets.append(self._connected(self.paths[number % len(self.paths)]))
            if number % _BACKLOG == 0:
                self._over.wait(0.02)
        self._thread = threading.Thread(target=self._drip, name=f"slow {self.kind}")
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        if self._thread:
            self._thread.join()
        for client in self.sockets:
            client.close()

    @property
    def alive(self) -> int:
        return sum(client.fileno() != -1 for client in self.sockets)

    @property
    def served(self) -> int:
        return len(self._served)

    def _connected(self, path: str) -> socket.socket:
        client = socket.socket()
        if self.kind == "reading":
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _SMALL_WINDOW)
        client.settimeout(20)
        client.connect(("127.0.0.1", self.port))
        client.sendall(self._beginning(path))
        client.settimeout(0)
        return client

    def _beginning(self, path: str) -> bytes:
        host = "Host: mirror.example\r\n"
        heads = {
            "reading": f"GET {path} HTTP/1.1\r\n{host}\r\n",
            "sending a head": f"GET {path} HTTP/1.1\r\n{host}X-Slow: ",
            "sending a body": f"POST /v1/jobs HTTP/1.1\r\n{host}Authorization: Bearer {self.token}\r\n"
            "Content-Type: application/json\r\nContent-Length: 60000\r\n\r\n",
            "idle": f"GET /livez HTTP/1.1\r\n{host}\r\n",
            "silent": "",
        }
        return heads[self.kind].encode()

    def _drip(self) -> None:
        while not self._over.wait(_STEP):
            for number, client in enumerate(self.sockets):
                if client.fileno() != -1:
                    self._step(number, client)

    def _step(self, number: int, client: socket.socket) -> None:
        try:
            if self.kind in ("sending a head", "sending a body"):
                client.send(b"x")
            if client.recv(_READ_AT_ONCE):
                self._served.add(number)
            else:
                client.close()
        except BlockingIOError:
            return
        except OSError:
            client.close()


@contextmanager
def crowds(*members: Crowd) -> Iterator[tuple[Crowd, ...]]:
    """All of them at once."""
    if not members:
        yield ()
        return
    with members[0] as first, crowds(*members[1:]) as others:
        yield (first, *others)


def is_dropped(client: socket.socket, drip: bytes) -> bool:
    """Return whether the server ends the connection, on which *drip* is sent now and then."""
    client.settimeout(0.2)
    deadline = time.monotonic() + WITHIN
    while time.monotonic() < deadline:
        try:
            if not client.recv(1024):
                return True
        except TimeoutError:
            client.sendall(drip)
        except (ConnectionResetError, BrokenPipeError):
            return True
    return False


def read_slowly(client: socket.socket, seconds: float) -> bytes:
    """Return the body of a response. It is read a little at a time for so long, and then as fast as it comes."""
    answer = http.client.HTTPResponse(client)
    answer.begin()
    received, until = answer.read(_SMALL_WINDOW), time.monotonic() + seconds
    while time.monotonic() < until:
        received += answer.read(_SMALL_WINDOW)
        time.sleep(0.2)  # it is slow
    return received + answer.read()
