"""Handle each connection in a greenlet, so that a slow client costs some kilobytes of memory and no thread.

gunicorn's gevent worker parses requests and calls the application. This module adds:

* TLS, with a deadline for the handshake, and with a certificate that may be replaced
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
import ssl
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
from service.http.tls import ServerCertificate

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
_RECORD: Final = 16 * 1024
"""The largest record of TLS (RFC 8446, 5.1)."""
_UNSENT: Final = 64 * 1024
"""Bytes that wait in the kernel for a client, in addition to those in flight. Without this bound up to 4 MiB wait."""
_HANDSHAKE_RECORD: Final = b"\x16"
"""The first byte of a TLS connection (RFC 8446, 5.1)."""
_DISCARDED: Final = 8192
"""Bytes of a plain request that are read before the answer. Unread bytes would make the kernel discard the answer."""
_SPEAK_TLS: Final = b"This port speaks TLS. Use https:// in the URL.\n"
_PLAIN_HTTP: Final = (
    b"HTTP/1.0 400 Bad Request\r\nContent-Type: text/plain\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%b"
    % (len(_SPEAK_TLS), _SPEAK_TLS)
)
_JOINED: Final = 16 * 1024
"""Bytes of a body that are sent together with the head."""
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
        self._certificate: ServerCertificate | None = self.app.certificate
        self._connections: set[Connection] = set()
        self._stopping = Event()

    def run(self) -> None:
        """Serve until SIGTERM. Then close idle connections, and give current requests half a second."""
        servers = [self._serve(listener) for listener in self.sockets]
        while self.alive:
            self.notify()
            if self._certificate is not None:
                self._certificate.reload_if_changed()
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
            if self._certificate is None or connection.start_tls(self._certificate.context, self.cfg.keepalive):
                super().handle(listener, connection, addr)
        finally:
            self._connections.discard(connection)
            connection.close()

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

    def start_tls(self, context: ssl.SSLContext, seconds: float) -> bool:
        """Return whether the client finishes the handshake within *seconds*.

        TLS gets its memory after the first byte, so that a thousand clients that send nothing cost little. A client
        that speaks plain HTTP reads what is wrong.
        """
        with gevent.Timeout(seconds, exception=False), suppress(OSError):  # an SSLError is one, too
            first = self._client.recv(1, socket.MSG_PEEK)
            if first == _HANDSHAKE_RECORD:
                self._client = secure = context.wrap_socket(
                    self._client, server_side=True, do_handshake_on_connect=False
                )
                secure.do_handshake()
                return True
            if first.isalpha():  # the method of a request
                self._client.recv(_DISCARDED)
                self._client.sendall(_PLAIN_HTTP)
        return False

    def end(self) -> None:
        """End the connection. A greenlet that waits for a head reads its end."""
        self._is_ended = True
        with suppress(OSError):  # SSLSocket's own shutdown would let that greenlet read without TLS
            socket.socket.shutdown(self._client, socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the connection. A TLS client is notified first (RFC 8446, 6.1), if that is possible at once."""
        if isinstance(self._client, ssl.SSLSocket):
            with suppress(OSError, ValueError):  # the connection is broken, or closed already
                self._client.settimeout(0)
                self._client.unwrap()
        self._client.close()

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
        except OSError as error:  # gevent raises it in a waiting greenlet when another one ends the connection
            if self._is_ended:
                return b""
            raise _without_tls(error) from None
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
        which saves a third of the CPU of a small response. Only a few bytes of the body are copied for that, so that
        slow clients of one large manifest share its bytes.
        """
        if self._awaits_head:
            self._head, self._awaits_head = data, False
            return
        left = [memoryview(data)]
        if self._head:
            left, self._head = [memoryview(self._head + left[0][:_JOINED]), left[0][_JOINED:]], b""
        while left:
            if left[0]:
                left[0] = left[0][self._send(left[0]) :]
            else:
                del left[0]
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

        Room grows in steps of up to a kernel buffer. So acknowledged bytes count as progress, too. TLS sends all it
        is given. So it gets one record at a time, and each one counts as progress.
        """
        if isinstance(self._client, ssl.SSLSocket):
            data = data[:_RECORD]
        unacknowledged, progress_at = 0, monotonic()
        self._client.settimeout(STALL_SECONDS)
        try:
            while True:
                with suppress(TimeoutError):
                    return self._client.send(data)  # TLS needs the same bytes again after a timeout
                if self._on_stall is not None:
                    self._on_stall()
                if (now_left := _unacknowledged(self._client)) < unacknowledged:
                    progress_at = monotonic()
                unacknowledged = now_left
                if monotonic() - progress_at >= STALLED_SECONDS:
                    raise BrokenPipeError(errno.EPIPE, "the client reads nothing")
        except ssl.SSLError as error:
            raise _without_tls(error) from None
        finally:
            self._client.settimeout(None)

    def _recv_body(self, size: int) -> bytes:
        try:  # no timeout of the socket: with TLS it would begin again with each byte of a record
            with time_limit(max(0.001, self._until - monotonic()), TimeoutError):
                return self._client.recv(size)
        except TimeoutError:
            self._request.force_close()
            raise RequestTooSlow(BODY_SECONDS) from None
        except ssl.SSLError as error:
            raise _without_tls(error) from None


def _unacknowledged(client: socket.socket) -> int:
    """Return the bytes that the client has not acknowledged (SIOCOUTQ, tcp(7)). 0 where it is unknown."""
    with suppress(OSError):
        answer = fcntl.ioctl(client.fileno(), termios.TIOCOUTQ, bytes(4))
        return int.from_bytes(answer, sys.byteorder)
    return 0


def _without_tls(error: OSError) -> OSError:
    """Return the error of a client that breaks TLS as that of one that goes away, which is not logged."""
    return ConnectionResetError(errno.ECONNRESET, "the client broke TLS") if isinstance(error, ssl.SSLError) else error


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
