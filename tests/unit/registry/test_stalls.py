from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator

import pytest

from mirror.registry.stalls import StallWatch


class Connection:
    """A connection whose peer never sends anything."""

    def __init__(self) -> None:
        self.live_socket, self._peer = socket.socketpair()
        self.live_socket.settimeout(10)

    def read(self) -> bytes:
        """Empty once the connection was interrupted; raises TimeoutError after ten seconds."""
        return self.live_socket.recv(1)

    def close(self) -> None:
        self.live_socket.close()
        self._peer.close()


@pytest.fixture
def connection() -> Iterator[Connection]:
    made = Connection()
    yield made
    made.close()


@pytest.fixture
def watch() -> Iterator[StallWatch]:
    made = StallWatch(0.05)
    yield made
    made.close()


def test_a_wait_that_lasts_too_long_is_ended_and_told(watch: StallWatch, connection: Connection) -> None:
    read: list[bytes] = []
    with pytest.raises(TimeoutError), watch.watching(connection):
        read.append(connection.read())
    assert read == [b""]


def test_a_wait_that_has_ended_is_not(watch: StallWatch, connection: Connection) -> None:
    served = Connection()
    with watch.watching(served):
        pass
    with pytest.raises(TimeoutError), watch.watching(connection):
        connection.read()
    served.live_socket.settimeout(0)
    with pytest.raises(BlockingIOError):
        served.read()
    served.close()


def test_one_thread_watches_all(watch: StallWatch, connection: Connection) -> None:
    before = threading.active_count()
    for _ in range(20):
        with watch.watching(connection):
            assert threading.active_count() == before + 1
    watch.close()
    assert threading.active_count() == before


def test_a_forked_process_has_a_watch_of_its_own(watch: StallWatch, connection: Connection) -> None:
    with watch.watching(connection):
        pass
    child = os.fork()
    if child == 0:
        try:
            with watch.watching(connection):
                connection.read()
        except TimeoutError:
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


class Unstoppable(Connection):
    """One whose socket cannot be shut down for a reason that nobody foresaw."""

    def __init__(self) -> None:
        super().__init__()
        self._own = self.live_socket
        self.live_socket = "no socket"  # type: ignore[assignment]  # what this is about

    def close(self) -> None:
        self.live_socket = self._own
        super().close()


def test_a_connection_that_cannot_be_interrupted_leaves_the_others_watched(
    watch: StallWatch, connection: Connection
) -> None:
    odd = Unstoppable()
    with pytest.raises(TimeoutError), watch.watching(odd), watch.watching(connection):
        connection.read()
    odd.close()
