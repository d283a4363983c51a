"""The one connection class of every outgoing request: it connects to addresses that were judged, and to no others.

A name is resolved once. Every address it has is judged before a socket is opened, so a name that has one forbidden
address is refused as a whole, and the socket is connected to the very address that was judged: a second answer of a
rebinding DNS server is never asked for. TLS checks the name, as ever.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable, Sequence
from typing import Any

from urllib3 import HTTPConnectionPool, HTTPResponse, HTTPSConnectionPool
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import InvalidHeader

from mirror.errors import SourceUnreachable
from mirror.registry.address_guard import AddressGuard
from mirror.registry.stalls import StallWatch
from mirror.registry.tolerant_response import TolerantResponse

logging.getLogger("urllib3.connection").setLevel(logging.ERROR)  # its warnings print whole URLs, presigned ones too

Resolve = Callable[[str, int], Sequence[tuple[socket.AddressFamily, Any]]]
"""From a host and a port to (family, socket address) pairs, as getaddrinfo gives them."""


def resolve(host: str, port: int) -> list[tuple[socket.AddressFamily, Any]]:
    """All TCP addresses of a host, in the system's order of preference; raises OSError or UnicodeError."""
    return [(found[0], found[4]) for found in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]


class ReadingInto(TolerantResponse):
    """http.client's answer, which urllib3's stands before, reading into the buffer that was named instead of a new one.

    `into` is named for one read at a time, by whoever reads. What urllib3 makes of a read stays: its errors, its
    counting, and the connection's return to its pool.
    """

    into: memoryview | None = None

    def read(self, amt: int | None = None) -> Any:
        if self.into is None:
            return super().read(amt)
        return self.into[: self.readinto(self.into)]


def pool_classes(guard: AddressGuard, resolve: Resolve, stalls: StallWatch) -> dict[str, type[HTTPConnectionPool]]:
    """urllib3's pools by scheme, with connections that *guard* has judged and *stalls* watches."""

    class GuardedHTTPConnection(HTTPConnection):
        def _new_conn(self) -> socket.socket:
            return _connect(self, guard, resolve)

        def connect(self) -> None:
            super().connect()
            self.live_socket = self.sock  # http.client forgets `sock` while the answer is still being read

        def response_class(self, *args: Any, **options: Any) -> ReadingInto:  # type: ignore[override]  # a class there
            """Called by http.client to make an answer, which is remembered."""
            self.answering = ReadingInto(*args, **options)
            return self.answering

        def getresponse(self) -> HTTPResponse:  # type: ignore[override]  # as urllib3 overrides http.client's
            try:
                with stalls.watching(self):
                    return super().getresponse()
            except InvalidHeader:
                _drop(self.live_socket)
                raise

    class GuardedHTTPSConnection(GuardedHTTPConnection, HTTPSConnection):
        pass

    class GuardedHTTPPool(HTTPConnectionPool):
        ConnectionCls = GuardedHTTPConnection

    class GuardedHTTPSPool(HTTPSConnectionPool):
        ConnectionCls = GuardedHTTPSConnection

    return {"http": GuardedHTTPPool, "https": GuardedHTTPSPool}


def _drop(live: socket.socket | None) -> None:
    """Close a socket that an abandoned answer still holds; urllib3 leaves that to the garbage collector."""
    if live is not None and (descriptor := live.detach()) >= 0:
        socket.close(descriptor)


def _connect(connection: HTTPConnection, guard: AddressGuard, resolve: Resolve) -> socket.socket:
    host, port = connection.host.strip("[]"), connection.port
    try:
        found = resolve(host, port)
    except (OSError, UnicodeError):
        raise SourceUnreachable(f"{host}:{port}", "its name cannot be resolved") from None
    for _, address in found:
        guard.require(host, address[0])
    return _first_that_connects(connection, host, found)


def _first_that_connects(
    connection: HTTPConnection, host: str, found: Sequence[tuple[socket.AddressFamily, Any]]
) -> socket.socket:
    reason, timed_out = "its name has no address", False
    for family, address in found:
        attempt = socket.socket(family, socket.SOCK_STREAM)
        try:
            attempt.settimeout(connection.timeout)
            for option in connection.socket_options or ():
                attempt.setsockopt(*option)
            attempt.connect(address)
        except OSError as error:
            attempt.close()
            timed_out = isinstance(error, TimeoutError)
            reason = "the connection timed out" if timed_out else "the connection was refused"
        else:
            return attempt
    raise SourceUnreachable(f"{host}:{connection.port}", reason, timed_out=timed_out)
