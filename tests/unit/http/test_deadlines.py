from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest

from mirror.http.deadlines import (
    Deadline,
    DeadlineReader,
    PendingRequest,
    current_deadline,
    current_request,
    shared_deadline,
    waiting_for,
)


class RecordingConnection:
    """Counts how often it was interrupted."""

    def __init__(self) -> None:
        self.interrupts = 0

    def interrupt(self) -> None:
        self.interrupts += 1


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    ours.settimeout(10)
    with ours, theirs:
        yield ours, theirs


def test_canceling_a_request_interrupts_its_connection() -> None:
    request, connection = PendingRequest(Deadline(60)), RecordingConnection()
    with waiting_for(request):
        current_request().use_connection(connection)
        request.cancel()
    assert connection.interrupts == 1


def test_a_canceled_request_takes_no_connection() -> None:
    request, connection = PendingRequest(Deadline(60)), RecordingConnection()
    request.cancel()
    with waiting_for(request), pytest.raises(ConnectionAbortedError):
        current_request().use_connection(connection)


def test_a_connection_is_not_interrupted_after_its_request_has_ended() -> None:
    """It may serve another request by then."""
    request, connection = PendingRequest(Deadline(60)), RecordingConnection()
    with waiting_for(request, connection):
        pass
    request.cancel()
    assert connection.interrupts == 0


def test_requests_of_one_block_share_a_deadline_and_others_have_their_own() -> None:
    with shared_deadline():
        outer = current_deadline()
        with shared_deadline():
            assert current_deadline() is outer
        assert current_deadline() is outer
        found: list[Deadline] = []
        thread = threading.Thread(target=lambda: found.append(current_deadline()))
        thread.start()
        thread.join()
        assert found != [outer]
    assert current_deadline() is not outer


def test_a_deadline_that_has_passed_leaves_no_time() -> None:
    deadline = Deadline(0)
    assert deadline.has_passed()
    with pytest.raises(TimeoutError):
        deadline.remaining()


def test_arriving_bytes_do_not_move_the_deadline(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    reader, over = DeadlineReader(ours, Deadline(0.2)), threading.Event()

    def drip() -> None:
        while not over.wait(0.01):
            theirs.send(b"a")

    thread = threading.Thread(target=drip)
    thread.start()
    with pytest.raises(TimeoutError):
        reader.makefile("rb").readline()
    over.set()
    thread.join()


def test_a_silent_peer_times_out_at_the_deadline_or_the_sockets_timeout(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    ours, _ = pair
    for timeout, seconds in ((10, 0.05), (0.05, 10)):
        ours.settimeout(timeout)
        deadline = Deadline(seconds)
        with pytest.raises(TimeoutError):
            DeadlineReader(ours, deadline).makefile("rb").read(1)
        assert deadline.has_passed() == (seconds < 1)


def test_a_later_deadline_gives_the_socket_its_timeout_back(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    reader = DeadlineReader(ours, Deadline(5))
    theirs.send(b"ab")
    assert reader.readinto(bytearray(1)) == 1
    assert 0 < (ours.gettimeout() or 0) <= 5
    reader.deadline = Deadline(60)
    assert reader.readinto(bytearray(1)) == 1
    assert ours.gettimeout() == 10


def test_the_socket_stays_open_while_a_response_is_read(pair: tuple[socket.socket, socket.socket]) -> None:
    """http.client may close the socket of the connection before it reads the body."""
    ours, theirs = pair
    stream = DeadlineReader(ours, Deadline(10)).makefile("rb")
    theirs.send(b"the rest")
    theirs.close()
    ours.close()
    assert stream.read() == b"the rest"
    stream.close()
    assert ours.fileno() == -1
