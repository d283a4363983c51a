from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from mirror.copying.interruption import Interrupted, Interruption
from mirror.copying.memory import BufferRing, MemoryBudget
from tests.e2e.processes import eventually


def test_buffers_never_exceed_the_budget_together() -> None:
    budget, interruption = MemoryBudget(10), Interruption()
    lock, used, most = threading.Lock(), 0, 0

    def take(size: int) -> None:
        nonlocal used, most
        with budget.buffer(size, interruption) as buffer:
            with lock:
                used += len(buffer)
                most = max(most, used)
            with lock:
                used -= len(buffer)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(take, [4, 7, 3, 10, 1] * 40))
    assert 0 < most <= 10


def test_a_buffer_larger_than_the_budget_is_a_programming_error() -> None:
    with pytest.raises(ValueError, match="exceeds"), MemoryBudget(10).buffer(11, Interruption()):
        pytest.fail("the block must not run")


def test_who_waits_for_memory_is_woken_by_the_interruption() -> None:
    budget, interruption = MemoryBudget(10), Interruption()
    refused = threading.Event()

    def wait() -> None:
        with pytest.raises(Interrupted), budget.buffer(1, interruption):
            pytest.fail("there is no memory")
        refused.set()

    with budget.buffer(10, Interruption()):
        thread = threading.Thread(target=wait)
        thread.start()
        interruption.interrupt("over")
        assert refused.wait(10)
        thread.join()


def test_a_large_request_is_not_passed_for_ever_by_small_ones() -> None:
    budget, interruption = MemoryBudget(10), Interruption()
    first = budget.take(6, interruption)
    with ThreadPoolExecutor(2) as pool:
        large = pool.submit(budget.take, 10, interruption)
        eventually(lambda: budget.waiting == 1, what="the large one waits")
        assert budget.take_if_free(1) is None
        small = pool.submit(budget.take, 1, interruption)
        eventually(lambda: budget.waiting == 2, what="the small one waits behind it")
        budget.give_back(first)
        budget.give_back(large.result(10))
        assert len(small.result(10)) == 1


def test_a_buffer_is_used_again() -> None:
    budget, interruption = MemoryBudget(10), Interruption()
    first = budget.take(5, interruption)
    budget.give_back(first)
    assert budget.take(5, interruption) is first


def test_idle_buffers_of_other_sizes_make_room() -> None:
    budget, interruption = MemoryBudget(10), Interruption()
    for size in (4, 3, 10, 5, 5):
        with budget.buffer(size, interruption) as buffer:
            assert len(buffer) == size
    assert budget.held <= 10


def test_a_ring_grows_while_memory_is_free_and_gives_all_back() -> None:
    budget, interruption = MemoryBudget(10), Interruption()
    with BufferRing(budget, budget.take(4, interruption)) as ring:
        first, second = ring.take(interruption), ring.take(interruption)
        assert first is not second
        ring.give_back(second)
        assert ring.take(interruption) is second
        ring.give_back(first)
        ring.give_back(second)
    assert len(budget.take(10, interruption)) == 10


def test_a_ring_without_free_memory_waits_for_its_own_and_for_the_interruption() -> None:
    budget, interruption = MemoryBudget(4), Interruption()
    with BufferRing(budget, budget.take(4, interruption)) as ring:
        only = ring.take(interruption)
        refused = threading.Event()

        def wait() -> None:
            with pytest.raises(Interrupted):
                ring.take(interruption)
            refused.set()

        thread = threading.Thread(target=wait)
        thread.start()
        interruption.interrupt("over")
        assert refused.wait(10)
        thread.join()
        ring.give_back(only)
