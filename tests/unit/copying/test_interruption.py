from __future__ import annotations

import threading
import time

import pytest

from mirror.copying.interruption import Interrupted, Interruption, pause, waking


def test_an_interruption_wakes_who_waits_and_the_first_reason_counts() -> None:
    interruption = Interruption()
    woken = threading.Event()
    with interruption.waking(woken.set):
        interruption.interrupt("first")
        interruption.interrupt("second")
    assert woken.is_set()
    with pytest.raises(Interrupted, match="first"):
        interruption.check()


def test_who_comes_too_late_does_not_begin_to_wait() -> None:
    interruption = Interruption()
    interruption.interrupt("over")
    with pytest.raises(Interrupted), interruption.waking(lambda: None):
        pytest.fail("the block must not run")


def test_a_wait_ends_with_the_interruption() -> None:
    interruption = Interruption()
    ended = threading.Event()

    def wait() -> None:
        with pytest.raises(Interrupted):
            interruption.wait(60)
        ended.set()

    thread = threading.Thread(target=wait)
    thread.start()
    interruption.interrupt("over")
    assert ended.wait(10)
    thread.join()


def test_a_part_is_stopped_with_the_whole_but_not_the_whole_with_a_part() -> None:
    whole = Interruption()
    with whole.part() as part:
        part.interrupt("a sibling failed")
        whole.check()
    with whole.part() as part:
        whole.interrupt("over")
        with pytest.raises(Interrupted, match="over"):
            part.check()


def test_a_waker_that_interrupts_again_does_not_deadlock() -> None:
    """As when closing a stream makes its reader fail, and that failure stops the others."""
    interruption = Interruption()
    with interruption.waking(lambda: interruption.interrupt("again")):
        interruption.interrupt("once")
    assert interruption.is_set()


def test_a_pause_ends_with_the_interruption_of_its_thread() -> None:
    interruption, ended = Interruption(), threading.Event()

    def wait() -> None:
        interruption.adopt()
        with pytest.raises(Interrupted):
            pause(60)
        ended.set()

    thread = threading.Thread(target=wait)
    thread.start()
    interruption.interrupt("over")
    assert ended.wait(10)
    thread.join()


def test_a_pause_of_a_thread_that_works_for_none_is_a_pause() -> None:
    begun = time.monotonic()
    pause(0.02)
    assert time.monotonic() - begun >= 0.02


def test_everybody_who_waits_is_woken_though_waking_one_of_them_fails() -> None:
    interruption, woken = Interruption(), threading.Event()

    def fail() -> None:
        raise ValueError("a stream that cannot be closed")

    with interruption.waking(fail), interruption.waking(woken.set):
        interruption.interrupt("over")
    assert woken.is_set()


def test_what_a_thread_waits_for_is_woken_and_its_error_is_the_interruption() -> None:
    interruption, waits, woken, ended = Interruption(), threading.Event(), threading.Event(), threading.Event()

    def read() -> None:
        waits.set()
        assert woken.wait(10)
        raise OSError("the socket was shut down")

    def work() -> None:
        interruption.adopt()
        with pytest.raises(Interrupted, match="over"), waking(woken.set):
            read()
        with pytest.raises(Interrupted), waking(lambda: None):
            pytest.fail("the block must not run")
        ended.set()

    thread = threading.Thread(target=work)
    thread.start()
    assert waits.wait(10)
    interruption.interrupt("over")
    assert ended.wait(10)
    thread.join()


def test_an_error_that_no_interruption_made_stays_what_it_is() -> None:
    with Interruption().adopting(), pytest.raises(OSError, match="lost"), waking(lambda: None):
        raise OSError("lost")


def test_a_thread_that_adopts_for_a_while_works_for_the_first_one_again() -> None:
    whole, part = Interruption(), Interruption()
    part.interrupt("a sibling failed")
    with whole.adopting():
        with part.adopting(), pytest.raises(Interrupted):
            pause(0)
        pause(0)
    pause(0)
