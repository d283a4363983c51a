"""The connection class of every outgoing request.

It connects only to addresses that the guard has checked. A name is resolved once. All its addresses are checked before
a socket is opened, so a name with one forbidden address is refused as a whole. The socket is connected to the very
address that was checked: a rebinding DNS server is not asked again. TLS verifies the name as usual.

Every wait keeps to the deadline of the thread's `PendingRequest`: name lookup, each address, TLS and response. It ends
when that request is canceled.
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
from mirror.http.deadlines import Deadline, PendingRequest, current_request
from mirror.http.tolerant_response import TolerantResponse

logging.getLogger("urllib3.connection").setLevel(logging.ERROR)  # its warnings contain whole URLs, also presigned ones

Resolve = Callable[[str, int], Sequence[tuple[socket.AddressFamily, Any]]]
"""Takes a host and a port. Returns (family, socket address) pairs, as getaddrinfo does."""

CONNECT_SECONDS: Final = 10.0
"""For each address of a host."""


def resolve(host: str, port: int) -> list[tuple[socket.AddressFamily, Any]]:
    """Return all TCP addresses of a host, in the system's order of preference.

    Raises OSError or UnicodeError.
    """
    return [(found[0], found[4]) for found in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]


class GuardedConnection(HTTPConnection):
    """A connection that another thread can interrupt while it carries a request."""

    live_socket: socket.socket | None = None
    """The socket to interrupt. http.client forgets `sock` while the response is still being read."""
    incoming: TolerantResponse
    """The response that is being read."""

    def connect(self) -> None:
        current_request().use_connection(self)
        super().connect()
        self.live_socket = self.sock

    def request(self, *args: Any, **options: Any) -> None:
        current_request().use_connection(self)
        super().request(*args, **options)

    def response_class(self, *args: Any, **options: Any) -> TolerantResponse:  # type: ignore[override]  # a class there
        """Make a response and remember it. Called by http.client."""
        self.incoming = TolerantResponse(*args, **options)
        return self.incoming

    def getresponse(self) -> HTTPResponse:  # type: ignore[override]  # as urllib3 overrides http.client's
        try:
            return super().getresponse()
        except InvalidHeader:
            _close_socket(self.live_socket)
            raise

    def interrupt(self) -> None:
        """Wake the thread that waits for the connection, from any thread.

        The socket is shut down, not closed. This calls the base class's shutdown. SSLSocket's own would turn the
        reader's socket into a plain one.
        """
        if self.live_socket is not None:
            with suppress(OSError):  # not connected yet, or closed already
                socket.socket.shutdown(self.live_socket, socket.SHUT_RDWR)


def pool_classes(guard: AddressGuard, resolve: Resolve) -> dict[str, type[HTTPConnectionPool]]:
    """Return urllib3's pool classes by scheme, with connections that *guard* checks."""

    class GuardedHTTPConnection(GuardedConnection):
        def _new_conn(self) -> socket.socket:
            return _connect(self, guard, resolve)

    class GuardedHTTPSConnection(GuardedHTTPConnection, HTTPSConnection):
        second_handle: socket.socket | None = None

        def _new_conn(self) -> socket.socket:
            """Keep a second handle to interrupt, because TLS takes over the socket."""
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


def _close_socket(live: socket.socket | None) -> None:
    """Close a socket that an abandoned response still holds, as urllib3 does not."""
    if live is not None and (descriptor := live.detach()) >= 0:
        socket.close(descriptor)


def _connect(connection: GuardedConnection, guard: AddressGuard, resolve: Resolve) -> socket.socket:
    host, port, request = connection.host.strip("[]"), connection.port, current_request()
    try:
        found = _addresses_of(host, port, resolve, request)
    except TimeoutError:
        raise SourceUnreachable(f"{host}:{port}", "its name was not resolved in time", out_of_time=True) from None
    except ConnectionAbortedError:
        raise
    except (OSError, UnicodeError):
        raise SourceUnreachable(f"{host}:{port}", "its name cannot be resolved") from None
    for _, address in found:
        guard.require(host, address[0])
    return _first_that_connects(connection, host, found)


def _addresses_of(
    host: str, port: int, resolve: Resolve, request: PendingRequest
) -> Sequence[tuple[socket.AddressFamily, Any]]:
    """Resolve a host.

    Raises what *resolve* raises, and OSError if the request is canceled or out of time. getaddrinfo cannot be
    interrupted. If it may ask a DNS server, it runs in a thread of its own, which is abandoned if the request ends
    first.
    """
    if ":" in host or host.replace(".", "").isdecimal():
        return resolve(host, port)
    outcome: Future[Sequence[tuple[socket.AddressFamily, Any]]] = Future()

    def look_up() -> None:
        try:
            outcome.set_result(resolve(host, port))
        except Exception as error:  # noqa: BLE001 - raised again in the waiting thread
            outcome.set_exception(error)

    threading.Thread(target=look_up, name="resolve", daemon=True).start()
    while not wait([outcome], request.poll_seconds()).done:
        continue
    return outcome.result()


def _first_that_connects(
    connection: GuardedConnection, host: str, found: Sequence[tuple[socket.AddressFamily, Any]]
) -> socket.socket:
    place, request = f"{host}:{connection.port}", current_request()
    seconds = connection.timeout or CONNECT_SECONDS
    has_time = request.deadline.remaining() > seconds
    reason, timed_out = "its name has no address", False
    for family, address in found:
        attempt = connection.live_socket = socket.socket(family, socket.SOCK_STREAM)
        try:
            for option in connection.socket_options or ():
                attempt.setsockopt(*option)
            attempt.settimeout(_connect_socket(attempt, address, request, seconds))
        except OSError as error:
            attempt.close()
            request.raise_if_canceled()
            timed_out = isinstance(error, TimeoutError)
            reason = "the connection timed out" if timed_out else "the connection was refused"
        else:
            return attempt
        if request.deadline.has_passed():
            if not has_time:
                raise TimeoutError  # most of it was spent before the connection
            raise SourceUnreachable(place, "no connection was made in time", timed_out=True, out_of_time=True)
    raise SourceUnreachable(place, reason, timed_out=timed_out)


def _connect_socket(attempt: socket.socket, address: Any, request: PendingRequest, seconds: float) -> float:
    """Connect within *seconds* and the request's deadline.

    Returns the seconds left for TLS. Raises OSError.
    """
    limit = Deadline(seconds)
    attempt.settimeout(0)
    begun = attempt.connect_ex(address)
    if begun not in (0, errno.EINPROGRESS):
        raise OSError(begun, os.strerror(begun))
    connecting = select.poll()
    connecting.register(attempt, select.POLLOUT)
    while not connecting.poll(1000 * min(request.poll_seconds(), limit.remaining())):
        continue
    if failed := attempt.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
        raise OSError(failed, os.strerror(failed))
    return min(seconds, request.deadline.remaining())
