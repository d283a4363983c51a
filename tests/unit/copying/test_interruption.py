from __future__ import annotations

import threading
import time

import pytest

from mirror.copying.interruption import Interrupted, Interruption, pause


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
