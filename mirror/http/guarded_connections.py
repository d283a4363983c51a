"""The one connection class of every outgoing request: it connects to addresses that were judged, and to no others.

A name is resolved once. Every address it has is judged before a socket is opened, so a name that has one forbidden
address is refused as a whole, and the socket is connected to the very address that was judged: a second answer of a
rebinding DNS server is never asked for. TLS checks the name, as ever.

Every wait on the way (the name, each address, TLS, the answer) keeps to the deadline of the thread's `Call`, and ends
when that call is cut.
"""

from __future__ import annotations

import errno
import logging
import os
import select
import socket
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from contextlib import suppress
from typing import Any, Final

from urllib3 import HTTPConnectionPool, HTTPResponse, HTTPSConnectionPool
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import InvalidHeader

from mirror.errors import SourceUnreachable
from mirror.http.address_guard import AddressGuard
from mirror.http.deadlines import Call, Deadline, TimedReader, current_call
from mirror.http.tolerant_response import TolerantResponse

logging.getLogger("urllib3.connection").setLevel(logging.ERROR)  # its warnings print whole URLs, presigned ones too

Resolve = Callable[[str, int], Sequence[tuple[socket.AddressFamily, Any]]]
"""From a host and a port to (family, socket address) pairs, as getaddrinfo gives them."""

CONNECT_SECONDS: Final = 10.0
"""For each address of a host."""


def resolve(host: str, port: int) -> list[tuple[socket.AddressFamily, Any]]:
    """All TCP addresses of a host, in the system's order of preference; raises OSError or UnicodeError."""
    return [(found[0], found[4]) for found in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]


class ReadingInto(TolerantResponse):
    """http.client's answer, which urllib3's stands before, reading into the buffer that was named instead of a new one.

    `into` is named for one read at a time, by whoever reads. What urllib3 makes of a read stays: its errors, its
    counting, and the connection's return to its pool. `reader` is where all bytes come from, within its deadline.
    """

    into: memoryview | None = None

    def __init__(self, connected: socket.socket, *args: Any, **options: Any) -> None:
        self.reader = TimedReader(connected, current_call().deadline)
        super().__init__(self.reader, *args, **options)  # type: ignore[arg-type]  # http.client calls its `makefile` only

    def read(self, amt: int | None = None) -> Any:
        if self.into is None:
            return super().read(amt)
        return self.into[: self.readinto(self.into)]


class GuardedConnection(HTTPConnection):
    """A connection that knows the call which it carries, and can be cut from another thread."""

    live_socket: socket.socket | None = None
    """What is cut. http.client forgets `sock` while the answer is still being read."""

    def connect(self) -> None:
        current_call().carried_by(self)
        super().connect()
        self.live_socket = self.sock

    def request(self, *args: Any, **options: Any) -> None:
        current_call().carried_by(self)
        super().request(*args, **options)

    def response_class(self, *args: Any, **options: Any) -> ReadingInto:  # type: ignore[override]  # a class there
        """Called by http.client to make an answer, which is remembered."""
        self.answering = ReadingInto(*args, **options)
        return self.answering

    def getresponse(self) -> HTTPResponse:  # type: ignore[override]  # as urllib3 overrides http.client's
        try:
            return super().getresponse()
        except InvalidHeader:
            _drop(self.live_socket)
            raise

    def cut(self) -> None:
        """Wake whoever waits for the connection, from any thread: its socket is shut down, not closed.

        The base class's shutdown, since SSLSocket's own would turn the reader's socket into a plain one.
        """
        if self.live_socket is not None:
            with suppress(OSError):  # not connected yet, or closed already
                socket.socket.shutdown(self.live_socket, socket.SHUT_RDWR)


def pool_classes(guard: AddressGuard, resolve: Resolve) -> dict[str, type[HTTPConnectionPool]]:
    """urllib3's pools by scheme, with connections that *guard* has judged."""

    class GuardedHTTPConnection(GuardedConnection):
        def _new_conn(self) -> socket.socket:
            return _connect(self, guard, resolve)

    class GuardedHTTPSConnection(GuardedHTTPConnection, HTTPSConnection):
        second_handle: socket.socket | None = None

        def _new_conn(self) -> socket.socket:
            """TLS takes the socket over before its handshake: a second handle is what is cut meanwhile."""
            connected = super()._new_conn()
            self.live_socket = self.second_handle = connected.dup()
            return connected

        def connect(self) -> None:
            try:
                super().connect()
            finally:
                if self.second_handle is not None:
                    self.second_handle.close()

    class GuardedHTTPPool(HTTPConnectionPool):
        ConnectionCls = GuardedHTTPConnection

    class GuardedHTTPSPool(HTTPSConnectionPool):
        ConnectionCls = GuardedHTTPSConnection

    return {"http": GuardedHTTPPool, "https": GuardedHTTPSPool}


def _drop(live: socket.socket | None) -> None:
    """Close a socket that an abandoned answer still holds; urllib3 leaves that to the garbage collector."""
    if live is not None and (descriptor := live.detach()) >= 0:
        socket.close(descriptor)


def _connect(connection: GuardedConnection, guard: AddressGuard, resolve: Resolve) -> socket.socket:
    host, port, call = connection.host.strip("[]"), connection.port, current_call()
    try:
        found = _resolved(resolve, host, port, call)
    except TimeoutError:
        raise SourceUnreachable(f"{host}:{port}", "its name was not resolved in time", out_of_time=True) from None
    except ConnectionAbortedError:
        raise
    except (OSError, UnicodeError):
        raise SourceUnreachable(f"{host}:{port}", "its name cannot be resolved") from None
    for _, address in found:
        guard.require(host, address[0])
    return _first_that_connects(connection, host, found)


def _resolved(resolve: Resolve, host: str, port: int, call: Call) -> Sequence[tuple[socket.AddressFamily, Any]]:
    """The addresses of a host. getaddrinfo cannot be interrupted: where it may ask a DNS server, a thread of its own
    waits for it, and is left behind when the call ends before.
    """
    if ":" in host or host.replace(".", "").isdecimal():
        return resolve(host, port)
    outcome: Future[Sequence[tuple[socket.AddressFamily, Any]]] = Future()

    def ask() -> None:
        try:
            outcome.set_result(resolve(host, port))
        except Exception as error:  # noqa: BLE001 - raised in the thread that waits
            outcome.set_exception(error)

    threading.Thread(target=ask, name="resolve", daemon=True).start()
    while not wait([outcome], call.slice()).done:
        continue
    return outcome.result()


def _first_that_connects(
    connection: GuardedConnection, host: str, found: Sequence[tuple[socket.AddressFamily, Any]]
) -> socket.socket:
    place, call = f"{host}:{connection.port}", current_call()
    seconds = connection.timeout or CONNECT_SECONDS
    has_time = call.deadline.left() > seconds
    reason, timed_out = "its name has no address", False
    for family, address in found:
        attempt = connection.live_socket = socket.socket(family, socket.SOCK_STREAM)
        try:
            for option in connection.socket_options or ():
                attempt.setsockopt(*option)
            attempt.settimeout(_connected(attempt, address, call, seconds))
        except OSError as error:
            attempt.close()
            call.check()
            timed_out = isinstance(error, TimeoutError)
            reason = "the connection timed out" if timed_out else "the connection was refused"
        else:
            return attempt
        if call.deadline.has_passed():
            if not has_time:
                raise TimeoutError  # what came before the connection took it
            raise SourceUnreachable(place, "no connection was made in time", timed_out=True, out_of_time=True)
    raise SourceUnreachable(place, reason, timed_out=timed_out)


def _connected(attempt: socket.socket, address: Any, call: Call, seconds: float) -> float:
    """Connect within so many seconds, and within the call; the seconds that are left for TLS. Raises OSError."""
    limit = Deadline(seconds)
    attempt.settimeout(0)
    begun = attempt.connect_ex(address)
    if begun not in (0, errno.EINPROGRESS):
        raise OSError(begun, os.strerror(begun))
    connecting = select.poll()
    connecting.register(attempt, select.POLLOUT)
    while not connecting.poll(1000 * min(call.slice(), limit.left())):
        continue
    if failed := attempt.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
        raise OSError(failed, os.strerror(failed))
    return min(seconds, call.deadline.left())
