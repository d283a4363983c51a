from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

from mirror.copying.blob_queue import LargestFirst
from mirror.copying.cancellation import Cancellation, OperationCanceled
from tests.e2e.processes import eventually


def is_waited_for(turns: LargestFirst, count: int) -> bool:
    return turns.waiting == count


def test_the_largest_blob_that_waits_is_next() -> None:
    turns, order = LargestFirst(), list[int]()

    def take(size: int) -> None:
        with turns.turn(size, Cancellation()):
            order.append(size)

    with ThreadPoolExecutor(4) as pool, turns.turn(1, Cancellation()):
        for waiting, size in enumerate((5, 9, 7, 9), 1):
            pool.submit(take, size)
            eventually(partial(is_waited_for, turns, waiting), what=f"{waiting} wait")
        assert order == []
    assert order == [9, 9, 7, 5]


def test_who_waits_for_a_turn_is_woken_by_the_cancellation_and_stands_in_nobodys_way() -> None:
    turns, cancellation, refused = LargestFirst(), Cancellation(), threading.Event()

    def wait() -> None:
        with pytest.raises(OperationCanceled), turns.turn(9, cancellation):
            pytest.fail("it is another's turn")
        refused.set()

    with turns.turn(1, Cancellation()):
        thread = threading.Thread(target=wait)
        thread.start()
        eventually(lambda: turns.waiting == 1, what="it waits")
        cancellation.cancel("over")
        assert refused.wait(10)
        thread.join()
    with turns.turn(1, Cancellation()):
        assert turns.waiting == 0


def test_a_turn_ends_with_an_error() -> None:
    turns = LargestFirst()
    with pytest.raises(ValueError, match="broken"), turns.turn(1, Cancellation()):
        raise ValueError("broken")
    with turns.turn(1, Cancellation()):
        assert turns.waiting == 0
