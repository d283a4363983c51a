"""Giving up on a connection that gives almost nothing: a server that sends a byte now and then (slow-loris) outlasts
every timeout between two reads.

What is waited for at a time is bounded: the head of an answer, a manifest or a token, at most 1 MiB of a blob. So its
time is, too, and for a blob that is a floor of about 17 kB/s per connection.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import monotonic
from typing import Final

from mirror.threads import BackgroundLoop, surviving

SECONDS: Final = 60.0
_LOOKS: Final = 12
"""How often the watch looks within `seconds`."""


@dataclass(slots=True, eq=False)
class _Wait:
    connection: object
    begun: float
    is_over: bool = False


class StallWatch:
    """Watches all waits of a process with one thread; a timer for each would cost a thread for every request.

    Safe to share between threads. Its own begins with the first wait, so in a forked process it is of that process. A
    connection is interrupted under the lock that ends a wait: never once its wait has ended, when it may serve another
    request.
    """

    def __init__(self, seconds: float = SECONDS) -> None:
        self._seconds = seconds
        self._waits: set[_Wait] = set()
        self._lock = threading.Lock()
        self._loop: BackgroundLoop | None = None

    @contextmanager
    def watching(self, connection: object) -> Iterator[None]:
        """Interrupt the connection if the block lasts too long, and raise TimeoutError, also if the block took that
        for an end.
        """
        wait = _Wait(connection, monotonic())
        with self._lock:
            self._waits.add(wait)
            if self._loop is None or not self._loop.is_alive():
                self._loop = BackgroundLoop("stalls", self._seconds / _LOOKS, self._watch).start()
        try:
            yield
        except Exception:
            if not wait.is_over:
                raise
        finally:
            with self._lock:
                self._waits.remove(wait)
        if wait.is_over:
            raise TimeoutError

    def close(self) -> None:
        """End the thread."""
        if self._loop is not None:
            self._loop.end()

    def _watch(self) -> bool:
        late = monotonic() - self._seconds
        with self._lock:
            for wait in [wait for wait in self._waits if wait.begun < late]:
                wait.is_over = True
                with surviving("interrupting a stalled connection"):
                    interrupt(wait.connection)
        return True


def interrupt(connection: object) -> None:
    """Wake whoever reads from the connection, from any thread: its socket is shut down, not closed.

    The base class's shutdown, since SSLSocket's own would turn the reader's socket into a plain one.
    """
    live = getattr(connection, "live_socket", None)
    if live is None:
        return
    try:
        socket.socket.shutdown(live, socket.SHUT_RDWR)
    except OSError:
        return  # it was closed already
