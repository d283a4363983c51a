from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from mirror.copying.interruption import Interrupted, Interruption
from mirror.copying.memory import MemoryBudget


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
