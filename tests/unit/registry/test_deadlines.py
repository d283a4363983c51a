from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest

from mirror.http.deadlines import Call, Deadline, TimedReader, calling, current_call, current_deadline, one_deadline


class Line:
    """A connection that only notes whether it was cut."""

    def __init__(self) -> None:
        self.cuts = 0

    def cut(self) -> None:
        self.cuts += 1


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    ours.settimeout(10)
    with ours, theirs:
        yield ours, theirs


def test_a_call_that_is_cut_cuts_the_connection_that_carries_it() -> None:
    call, line = Call(Deadline(60)), Line()
    with calling(call):
        current_call().carried_by(line)
        call.cut()
    assert line.cuts == 1


def test_a_call_that_was_cut_before_takes_no_connection() -> None:
    call, line = Call(Deadline(60)), Line()
    call.cut()
    with calling(call), pytest.raises(ConnectionAbortedError):
        current_call().carried_by(line)


def test_a_connection_is_not_cut_once_its_call_has_ended() -> None:
    """It may serve another request by then."""
    call, line = Call(Deadline(60)), Line()
    with calling(call, line):
        pass
    call.cut()
    assert line.cuts == 0


def test_requests_of_one_block_have_one_deadline_and_others_have_their_own() -> None:
    with one_deadline():
        outer = current_deadline()
        with one_deadline():
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
        deadline.left()


def test_bytes_that_keep_coming_do_not_move_the_deadline(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    reader, over = TimedReader(ours, Deadline(0.2)), threading.Event()

    def drip() -> None:
        while not over.wait(0.01):
            theirs.send(b"a")

    thread = threading.Thread(target=drip)
    thread.start()
    with pytest.raises(TimeoutError):
        reader.makefile("rb").readline()
    over.set()
    thread.join()


def test_a_peer_that_is_silent_is_given_up_at_the_deadline_or_after_the_sockets_own_timeout(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    ours, _ = pair
    for timeout, seconds in ((10, 0.05), (0.05, 10)):
        ours.settimeout(timeout)
        deadline = Deadline(seconds)
        with pytest.raises(TimeoutError):
            TimedReader(ours, deadline).makefile("rb").read(1)
        assert deadline.has_passed() == (seconds < 1)


def test_a_later_deadline_gives_the_socket_its_timeout_back(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    reader = TimedReader(ours, Deadline(5))
    theirs.send(b"ab")
    assert reader.readinto(bytearray(1)) == 1
    assert 0 < (ours.gettimeout() or 0) <= 5
    reader.deadline = Deadline(60)
    assert reader.readinto(bytearray(1)) == 1
    assert ours.gettimeout() == 10


def test_the_socket_stays_open_for_as_long_as_an_answer_is_read(pair: tuple[socket.socket, socket.socket]) -> None:
    """http.client closes the connection's socket where the answer says so, and reads the answer then."""
    ours, theirs = pair
    stream = TimedReader(ours, Deadline(10)).makefile("rb")
    theirs.send(b"the rest")
    theirs.close()
    ours.close()
    assert stream.read() == b"the rest"
    stream.close()
    assert ours.fileno() == -1
