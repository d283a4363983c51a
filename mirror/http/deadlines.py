"""Bounds in time for what is asked of a registry, and a way to end it from another thread.

A socket's timeout restarts with every byte, so a server that sends a byte now and then outlasts it. A `Deadline` does
not restart: whoever waits for a registry asks it before every read how long may still be waited. That costs no thread
and no lock, and ends a wait at the moment it should.

========================================  ==============================================================
a request of ours that is no blob         60 s for all of it: its token, its redirects, every connection,
                                          the answer and its body
a blob                                    60 s until its bytes begin, then 60 s for each MiB or less
a body that nobody needs                  half a second, then its connection is closed
the name of a host                        within the above; `getaddrinfo` cannot be interrupted, so a thread
                                          of its own asks, and is left behind until the resolver gives up
========================================  ==============================================================

A request that ran out of its deadline is not made again while its task has a slot (`attempts`): the task is parked if
the registry is known to work, and fails otherwise.
"""

from __future__ import annotations

import io
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from time import monotonic
from typing import Any, Final, Protocol

EXCHANGE_SECONDS: Final = 60.0
STALL_SECONDS: Final = 60.0
"""For what is asked of a blob at a time, at most 1 MiB: a floor of about 17 kB/s per connection."""
DRAIN_SECONDS: Final = 0.5
"""For the rest of an answer that nobody needs. A well-behaved registry sends it in one go with the head."""
SLICE_SECONDS: Final = 0.25
"""Until a wait that cannot be woken looks whether it was ended."""

Wakers = Callable[[Callable[[], None]], AbstractContextManager[None]]
"""Given what ends a wait: a context that calls it, from any thread, when the work of the calling thread is to stop. It
raises at its beginning, or in the place of the block's error, if the work was stopped.
"""


def never_woken(_cut: Callable[[], None]) -> AbstractContextManager[None]:
    """The `Wakers` of a process that never stops its work."""
    return nullcontext()


class Deadline:
    """When something must have ended, *seconds* from now."""

    __slots__ = ("_until", "seconds")

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._until = monotonic() + seconds

    def has_passed(self) -> bool:
        return monotonic() >= self._until

    def left(self) -> float:
        """The seconds that are left; raises TimeoutError if there are none."""
        left = self._until - monotonic()
        if left <= 0:
            raise TimeoutError
        return left


class Carrier(Protocol):
    """A connection that can be cut from another thread."""

    def cut(self) -> None: ...


class Call:
    """One request while a thread waits for it: its deadline, and the connection that carries it.

    A connection is cut under the lock that ends the wait: never once the wait has ended, when it may serve another
    request.
    """

    def __init__(self, deadline: Deadline) -> None:
        self.deadline = deadline
        self._lock = threading.Lock()
        self._carrier: Carrier | None = None
        self._is_cut = False

    def carried_by(self, carrier: Carrier | None) -> None:
        """Say which connection is to be cut, None at the end of the wait; raises OSError if the call was cut before."""
        with self._lock:
            self._carrier = carrier
        if carrier is not None:
            self.check()

    def cut(self) -> None:
        """End the wait, from any thread."""
        with self._lock:
            self._is_cut = True
            if self._carrier is not None:
                self._carrier.cut()

    def check(self) -> None:
        """Raise OSError if the call was cut."""
        if self._is_cut:
            raise ConnectionAbortedError

    def slice(self) -> float:
        """Seconds to wait before the next look; raises OSError if the call was cut, or its deadline has passed."""
        self.check()
        return min(SLICE_SECONDS, self.deadline.left())


class _Thread(threading.local):
    deadline: Deadline | None = None
    call: Call | None = None


_THREAD: Final = _Thread()


@contextmanager
def one_deadline() -> Iterator[None]:
    """Let all requests that this thread makes in the block share a deadline, that of the outermost block."""
    if _THREAD.deadline is not None:
        yield
        return
    _THREAD.deadline = Deadline(EXCHANGE_SECONDS)
    try:
        yield
    finally:
        _THREAD.deadline = None


def current_deadline() -> Deadline:
    """That of this thread's block, or a new one."""
    return _THREAD.deadline or Deadline(EXCHANGE_SECONDS)


@contextmanager
def calling(call: Call, carrier: Carrier | None = None) -> Iterator[None]:
    """Make *call* this thread's, carried by the connection that the block takes up or by *carrier*."""
    _THREAD.call = call
    try:
        if carrier is not None:
            call.carried_by(carrier)
        yield
    finally:
        _THREAD.call = None
        call.carried_by(None)


def current_call() -> Call:
    """The request that this thread is making."""
    return _THREAD.call or Call(current_deadline())


class TimedReader(io.RawIOBase):
    """What http.client reads an answer from, in the place of a socket: every read keeps to the deadline."""

    def __init__(self, connected: socket.socket, deadline: Deadline) -> None:
        super().__init__()
        self.deadline = deadline
        self._socket = connected
        self._file = connected.makefile("rb", buffering=0)  # keeps the socket open for as long as this is
        self._longest = self._timeout = connected.gettimeout() or EXCHANGE_SECONDS

    def makefile(self, _mode: str) -> io.BufferedReader:
        """Called by http.client, which takes this for the socket."""
        return io.BufferedReader(self)

    def readable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._file.fileno()

    def readinto(self, buffer: Any) -> int:
        timeout = min(self.deadline.left(), self._longest)
        if timeout != self._timeout:  # a system call, needed in the last seconds only
            self._socket.settimeout(timeout)
            self._timeout = timeout
        return self._socket.recv_into(buffer)

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()
