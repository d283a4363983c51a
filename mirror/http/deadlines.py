"""Time limits of requests, and a way to end a wait from another thread.

A socket's timeout starts again with every byte, so a server that sends a byte now and then is never timed out. A
`Deadline` does not start again: before every read, the remaining time becomes the socket's timeout. This needs no extra
thread and no lock.

- A request has 60 s for everything: every connection, the response and its body. Requests that belong together share
  them, such as a request with its token and its redirects.
- A large body has 60 s for each read, which asks for at most 1 MiB (`Response.read_into`).
- A body that is not needed has half a second. Then its connection is closed.
- The lookup of a host's name is part of the request. `getaddrinfo` cannot be interrupted, so it runs in a thread of its
  own. That thread is abandoned if the request ends first.
"""

from __future__ import annotations

import io
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from time import monotonic
from typing import Any, Final, Protocol

REQUEST_SECONDS: Final = 60.0
STALL_SECONDS: Final = 60.0
"""For one read of a large body, of at most 1 MiB: a minimum of about 17 kB/s per connection."""
DRAIN_SECONDS: Final = 0.5
"""For the rest of a body that is not needed. A well-behaved server sends it together with the head."""
POLL_SECONDS: Final = 0.25
"""Between two checks whether a wait was canceled, where the wait itself cannot be interrupted."""

OnCancel = Callable[[Callable[[], None]], AbstractContextManager[None]]
"""Takes a function that ends a wait. Returns a context manager for the time of that wait.

When the work of the calling thread is canceled meanwhile, the function is called, from any thread. If the work was
canceled, the context manager raises on entry, or on exit in place of the block's error.
"""


def never_canceled(_cancel: Callable[[], None]) -> AbstractContextManager[None]:
    """The `OnCancel` of a process whose work is never canceled."""
    return nullcontext()


class Deadline:
    """A moment *seconds* from now."""

    __slots__ = ("_until", "seconds")

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._until = monotonic() + seconds

    def has_passed(self) -> bool:
        return monotonic() >= self._until

    def remaining(self) -> float:
        """Return the remaining seconds. Raises TimeoutError if there are none."""
        remaining = self._until - monotonic()
        if remaining <= 0:
            raise TimeoutError
        return remaining


class Interruptible(Protocol):
    """A connection whose reader can be woken from another thread."""

    def interrupt(self) -> None: ...


class PendingRequest:
    """A request that a thread waits for: its deadline and its connection.

    The connection is interrupted under the lock that ends the wait. So it is never interrupted after the wait, when it
    may serve another request.
    """

    def __init__(self, deadline: Deadline) -> None:
        self.deadline = deadline
        self._lock = threading.Lock()
        self._connection: Interruptible | None = None
        self._is_canceled = False

    def use_connection(self, connection: Interruptible | None) -> None:
        """Set the connection to interrupt, None at the end of the wait.

        Raises OSError if already canceled.
        """
        with self._lock:
            self._connection = connection
        if connection is not None:
            self.raise_if_canceled()

    def cancel(self) -> None:
        """End the wait, from any thread."""
        with self._lock:
            self._is_canceled = True
            if self._connection is not None:
                self._connection.interrupt()

    def raise_if_canceled(self) -> None:
        """Raise OSError if the request was canceled."""
        if self._is_canceled:
            raise ConnectionAbortedError

    def poll_seconds(self) -> float:
        """Return the seconds until the next check.

        Raises OSError if canceled or if the deadline has passed.
        """
        self.raise_if_canceled()
        return min(POLL_SECONDS, self.deadline.remaining())


class _Thread(threading.local):
    deadline: Deadline | None = None
    request: PendingRequest | None = None


_THREAD: Final = _Thread()


@contextmanager
def shared_deadline() -> Iterator[None]:
    """Let all requests that this thread makes in the block share one deadline.

    An inner block uses the outer one's.
    """
    if _THREAD.deadline is not None:
        yield
        return
    _THREAD.deadline = Deadline(REQUEST_SECONDS)
    try:
        yield
    finally:
        _THREAD.deadline = None


def current_deadline() -> Deadline:
    """Return the deadline of this thread's `shared_deadline` block, or a new one."""
    return _THREAD.deadline or Deadline(REQUEST_SECONDS)


@contextmanager
def waiting_for(request: PendingRequest, connection: Interruptible | None = None) -> Iterator[None]:
    """Make *request* this thread's current one.

    Its connection is *connection*, or the one that the block makes.
    """
    _THREAD.request = request
    try:
        if connection is not None:
            request.use_connection(connection)
        yield
    finally:
        _THREAD.request = None
        request.use_connection(None)


def current_request() -> PendingRequest:
    """Return the request that this thread waits for, or a new one."""
    return _THREAD.request or PendingRequest(current_deadline())


class DeadlineReader(io.RawIOBase):
    """Stands in for the socket that http.client reads a response from.

    Every read keeps to the deadline.
    """

    def __init__(self, connected: socket.socket, deadline: Deadline) -> None:
        super().__init__()
        self.deadline = deadline
        self._socket = connected
        self._file = connected.makefile("rb", buffering=0)  # keeps the socket open until the reader is closed
        self._longest = self._timeout = connected.gettimeout() or REQUEST_SECONDS

    def makefile(self, _mode: str) -> io.BufferedReader:
        """Called by http.client, as it would be on a socket."""
        return io.BufferedReader(self)

    def readable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._file.fileno()

    def readinto(self, buffer: Any) -> int:
        timeout = min(self.deadline.remaining(), self._longest)
        if timeout != self._timeout:  # a system call, needed only in the last seconds
            self._socket.settimeout(timeout)
            self._timeout = timeout
        return self._socket.recv_into(buffer)

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()
