from __future__ import annotations

import threading
import time

import pytest

from mirror.copying.cancellation import Cancellation, OperationCanceled, on_cancel, pause


def test_an_cancellation_wakes_who_waits_and_the_first_reason_counts() -> None:
    cancellation = Cancellation()
    woken = threading.Event()
    with cancellation.on_cancel(woken.set):
        cancellation.cancel("first")
        cancellation.cancel("second")
    assert woken.is_set()
    with pytest.raises(OperationCanceled, match="first"):
        cancellation.check()


def test_who_comes_too_late_does_not_begin_to_wait() -> None:
    cancellation = Cancellation()
    cancellation.cancel("over")
    with pytest.raises(OperationCanceled), cancellation.on_cancel(lambda: None):
        pytest.fail("the block must not run")


def test_a_wait_ends_with_the_cancellation() -> None:
    cancellation = Cancellation()
    ended = threading.Event()

    def wait() -> None:
        with pytest.raises(OperationCanceled):
            cancellation.wait(60)
        ended.set()

    thread = threading.Thread(target=wait)
    thread.start()
    cancellation.cancel("over")
    assert ended.wait(10)
    thread.join()


def test_a_part_is_stopped_with_the_whole_but_not_the_whole_with_a_part() -> None:
    whole = Cancellation()
    with whole.child() as part:
        part.cancel("a sibling failed")
        whole.check()
    with whole.child() as part:
        whole.cancel("over")
        with pytest.raises(OperationCanceled, match="over"):
            part.check()


def test_a_waker_that_interrupts_again_does_not_deadlock() -> None:
    """As when closing a stream makes its reader fail, and that failure stops the others."""
    cancellation = Cancellation()
    with cancellation.on_cancel(lambda: cancellation.cancel("again")):
        cancellation.cancel("once")
    assert cancellation.is_set()


def test_a_pause_ends_with_the_cancellation_of_its_thread() -> None:
    cancellation, ended = Cancellation(), threading.Event()

    def wait() -> None:
        cancellation.bind_thread()
        with pytest.raises(OperationCanceled):
            pause(60)
        ended.set()

    thread = threading.Thread(target=wait)
    thread.start()
    cancellation.cancel("over")
    assert ended.wait(10)
    thread.join()


def test_a_pause_of_a_thread_that_works_for_none_is_a_pause() -> None:
    begun = time.monotonic()
    pause(0.02)
    assert time.monotonic() - begun >= 0.02


def test_everybody_who_waits_is_woken_though_waking_one_of_them_fails() -> None:
    cancellation, woken = Cancellation(), threading.Event()

    def fail() -> None:
        raise ValueError("a stream that cannot be closed")

    with cancellation.on_cancel(fail), cancellation.on_cancel(woken.set):
        cancellation.cancel("over")
    assert woken.is_set()


def test_what_a_thread_waits_for_is_woken_and_its_error_is_the_cancellation() -> None:
    cancellation, waits, woken, ended = Cancellation(), threading.Event(), threading.Event(), threading.Event()

    def read() -> None:
        waits.set()
        assert woken.wait(10)
        raise OSError("the socket was shut down")

    def work() -> None:
        cancellation.bind_thread()
        with pytest.raises(OperationCanceled, match="over"), on_cancel(woken.set):
            read()
        with pytest.raises(OperationCanceled), on_cancel(lambda: None):
            pytest.fail("the block must not run")
        ended.set()

    thread = threading.Thread(target=work)
    thread.start()
    assert waits.wait(10)
    cancellation.cancel("over")
    assert ended.wait(10)
    thread.join()


def test_an_error_that_no_cancellation_made_stays_what_it_is() -> None:
    with Cancellation().bound_to_thread(), pytest.raises(OSError, match="lost"), on_cancel(lambda: None):
        raise OSError("lost")


def test_a_thread_that_adopts_for_a_while_works_for_the_first_one_again() -> None:
    whole, part = Cancellation(), Cancellation()
    part.cancel("a sibling failed")
    with whole.bound_to_thread():
        with part.bound_to_thread(), pytest.raises(OperationCanceled):
            pause(0)
        pause(0)
    pause(0)
