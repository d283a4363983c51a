"""Handle each connection in a greenlet, so that a slow client costs some kilobytes of memory and no thread.

gunicorn's gevent worker parses requests and calls the application. This module adds:

* a bound for the whole head of a request
* a deadline for its body
* a deadline for a client that reads nothing of its answer
* a switch to other connections after each piece of an answer
* a shutdown that does not wait for idle connections

The deadline for a head is gunicorn's ``keepalive``, which includes the wait for its first byte.
"""

from __future__ import annotations

import errno
import fcntl
import resource
import socket
import sys
import termios
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial, wraps
from time import monotonic
from typing import Any, Final, ParamSpec, TypeVar

import gevent
from gevent.event import Event
from gevent.pool import Pool
from gevent.server import StreamServer
from gunicorn.http.errors import LimitRequestHeaders
from gunicorn.workers.ggevent import GeventWorker

from service.http import request_id
from service.http.problems import RequestTooSlow

CONNECTION: Final = "gunicorn.socket"
"""The `Connection` in a request's WSGI environment."""
LARGEST_HEAD: Final = 64 * 1024
"""Bytes of request line and headers together. Each of a thousand slow heads may hold this much memory."""
BODY_SECONDS: Final = 30.0
"""Seconds from the end of a head until the whole body must have arrived."""
STALLED_SECONDS: Final = 60
"""Seconds without an acknowledged byte after which a client is dropped."""
STALL_SECONDS: Final = 5.0
"""Seconds without room for more bytes after which a client loses shared resources, such as a connection to S3."""
_UNSENT: Final = 64 * 1024
"""Bytes that wait in the kernel for a client, in addition to those in flight. Without this bound up to 4 MiB wait."""
_GRACE_SECONDS: Final = 0.5
"""Seconds that current requests may go on after SIGTERM."""
_ACCEPTED_AT_ONCE: Final = 16
"""Connections accepted per iteration of the event loop. With fewer, a probe waits seconds while a thousand pulls are
accepted. With more, another process gets less than its share."""
_NOTIFY_SECONDS: Final = 1.0
_POLL: Final = 0.02
_MOST_FILES: Final = 65_536
_OTHER_FILES: Final = 256
"""Descriptors for everything but clients and S3 streams: Redis, pooled connections, libraries."""


P = ParamSpec("P")
T = TypeVar("T")


def in_thread(work: Callable[P, T]) -> Callable[P, T]:
    """Wrap *work* so that it runs in a real thread, while other connections go on.

    It is for work that computes for milliseconds and does no I/O.
    """

    @wraps(work)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        done: T = gevent.get_hub().threadpool.apply(work, args, kwargs)
        return done

    return run


@contextmanager
def time_limit(seconds: float, error: Callable[[], Exception]) -> Iterator[None]:
    """Raise *error* in the block after so many seconds, wherever its greenlet waits.

    Code that computes is not interrupted. Nor is code outside the service, where the standard library is not patched.
    """
    timeout = gevent.Timeout.start_new(seconds)
    try:
        yield
    except gevent.Timeout as expired:
        if expired is not timeout:
            raise
        raise error() from None
    finally:
        timeout.close()


class Worker(GeventWorker):  # type: ignore[misc] # gunicorn has no types
    """One process: an accepting server, and a greenlet for each of its connections."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._connections: set[Connection] = set()
        self._stopping = Event()

    def run(self) -> None:
        """Serve until SIGTERM. Then close idle connections, and give current requests half a second."""
        servers = [self._serve(listener) for listener in self.sockets]
        while self.alive:
            self.notify()
            self._stopping.wait(_NOTIFY_SECONDS)
        for server in servers:
            server.close()
        until = monotonic() + _GRACE_SECONDS
        while self._connections and monotonic() < until:
            for connection in [found for found in self._connections if found.is_between_requests]:
                connection.end()
            gevent.sleep(_POLL)
        for server in servers:
            server.stop(timeout=0)

    def handle_exit(self, sig: int, frame: Any) -> None:
        super().handle_exit(sig, frame)
        gevent.spawn(self._stopping.set)

    def handle(self, listener: Any, client: Any, addr: Any) -> None:
        connection = Connection(client)
        self._connections.add(connection)
        try:
            super().handle(listener, connection, addr)
        finally:
            self._connections.discard(connection)

    def handle_request(self, listener_name: Any, req: Any, sock: Connection, addr: Any) -> None:
        sock.begin_body(req)
        try:
            try:
                super().handle_request(listener_name, req, sock, addr)
            finally:
                sock.end_response()
            if not self.alive:
                raise StopIteration  # ends the connection
            _discard_body(req)
        finally:
            sock.begin_head()
            request_id.end()

    def _serve(self, listener: Any) -> StreamServer:
        listener.settimeout(None)
        server = StreamServer(listener, handle=partial(self.handle, listener), spawn=Pool(self.worker_connections))
        server.max_accept = _ACCEPTED_AT_ONCE
        server.start()
        return server


class Connection:
    """A client's socket with bounds on what is read from it. gunicorn uses it as a socket."""

    def __init__(self, client: socket.socket) -> None:
        self._client = client
        self._on_stall: Callable[[], None] | None = None
        self._request: Any = None
        self._awaits_head = False
        self._head = b""
        self._is_ended = False
        self._left = LARGEST_HEAD
        self._until = 0.0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    @property
    def is_between_requests(self) -> bool:
        """Whether no request is in progress: no complete head has arrived since the last answer."""
        return self._request is None

    def end(self) -> None:
        """End the connection. A greenlet that waits for a head reads its end."""
        self._is_ended = True
        with suppress(OSError):
            self._client.shutdown(socket.SHUT_RDWR)

    def begin_head(self) -> None:
        self._request, self._left, self._on_stall = None, LARGEST_HEAD, None

    def begin_body(self, request: Any) -> None:
        self._request, self._until = request, monotonic() + BODY_SECONDS
        self._awaits_head = True

    def recv(self, size: int) -> bytes:
        """Receive bytes. Raises LimitRequestHeaders for a head that is too large, RequestTooSlow for a late body."""
        if self._request is not None:
            return self._recv_body(size)
        try:
            received = self._client.recv(size)
        except OSError:  # gevent raises it in a waiting greenlet when another one ends the connection
            if self._is_ended:
                return b""
            raise
        self._left -= len(received)
        if self._left < 0:
            raise LimitRequestHeaders("limit request head size")
        return received

    def on_stall(self, release: Callable[[], None]) -> None:
        """Call *release*, which frees shared resources, when the client has had no room for `STALL_SECONDS`."""
        self._on_stall = release

    def sendall(self, data: bytes) -> None:
        """Send all bytes, then switch to other greenlets. A quick client and a quick S3 would never switch.

        The head of a response waits for the first bytes of its body. Both are then one system call and one packet,
        which saves a third of the CPU of a small response.
        """
        if self._awaits_head:
            self._head, self._awaits_head = data, False
            return
        if self._head:
            data, self._head = self._head + data, b""
        left = memoryview(data)
        while left:
            left = left[self._send(left) :]
        gevent.sleep(0)

    def end_response(self) -> None:
        """Send the head of a response that has no body."""
        self._awaits_head = False
        if self._head:
            self.sendall(b"")

    def shutdown(self, how: int) -> None:
        """Shut the socket down. gunicorn does so when a response fails, and then its head is not sent either."""
        self._head = b""
        self._client.shutdown(how)

    def _send(self, data: memoryview) -> int:
        """Wait for room and send as much as fits. Raises BrokenPipeError for a client that reads nothing.

        Room grows in steps of up to a kernel buffer. So acknowledged bytes count as progress, too.
        """
        unacknowledged, progress_at = 0, monotonic()
        self._client.settimeout(STALL_SECONDS)
        try:
            while True:
                with suppress(TimeoutError):
                    return self._client.send(data)
                if self._on_stall is not None:
                    self._on_stall()
                if (now_left := self._unacknowledged()) < unacknowledged:
                    progress_at = monotonic()
                unacknowledged = now_left
                if monotonic() - progress_at >= STALLED_SECONDS:
                    raise BrokenPipeError(errno.EPIPE, "the client reads nothing")
        finally:
            self._client.settimeout(None)

    def _unacknowledged(self) -> int:
        """Return the bytes that the client has not acknowledged (SIOCOUTQ, tcp(7)). 0 where it is unknown."""
        with suppress(OSError):
            answer = fcntl.ioctl(self._client.fileno(), termios.TIOCOUTQ, bytes(4))
            return int.from_bytes(answer, sys.byteorder)
        return 0

    def _recv_body(self, size: int) -> bytes:
        self._client.settimeout(max(0.001, self._until - monotonic()))
        try:
            return self._client.recv(size)
        except TimeoutError:
            self._request.force_close()
            raise RequestTooSlow(BODY_SECONDS) from None
        finally:
            self._client.settimeout(None)


def _discard_body(request: Any) -> None:
    """Read the rest of a small body, so that the connection can be used again.

    Raises StopIteration, which ends the connection, for a large or a late body.
    """
    left = LARGEST_HEAD
    with suppress(RequestTooSlow):
        while left > 0 and not request.body.failed:
            discarded = len(request.body.read(1024))
            if not discarded:
                return
            left -= discarded
    raise StopIteration


def bound_unsent(arbiter: Any) -> None:
    """Bound the bytes that wait in the kernel for a slow client. Connections inherit this from their listener."""
    if option := getattr(socket, "TCP_NOTSENT_LOWAT", None):
        for listener in arbiter.LISTENERS:
            listener.sock.setsockopt(socket.IPPROTO_TCP, option, _UNSENT)


def raise_open_files() -> int:
    """Raise the limit of open files as far as allowed. Return the number of clients that a process then has room for.

    Each client may need two files: its own connection, and one to S3.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = _MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, _MOST_FILES)
    if soft != resource.RLIM_INFINITY and soft < allowed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    return max(64, (allowed - _OTHER_FILES) // 2)
