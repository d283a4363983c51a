from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest

from mirror.copying import memory
from mirror.copying.cancellation import Cancellation, OperationCanceled
from mirror.copying.memory import BLOB_BYTES, FREE, BufferRing, ManifestMemory, MemoryBudget
from mirror.errors import ManifestInvalid, MemoryBusy
from tests.e2e.processes import eventually


def test_buffers_never_exceed_the_budget_together() -> None:
    budget, cancellation = MemoryBudget(10), Cancellation()
    lock, used, most = threading.Lock(), 0, 0

    def take(size: int) -> None:
        nonlocal used, most
        with budget.buffer(size, cancellation) as buffer:
            with lock:
                used += len(buffer)
                most = max(most, used)
            with lock:
                used -= len(buffer)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(take, [4, 7, 3, 10, 1] * 40))
    assert 0 < most <= 10


def test_a_buffer_larger_than_the_budget_is_a_programming_error() -> None:
    with pytest.raises(ValueError, match="exceeds"), MemoryBudget(10).buffer(11, Cancellation()):
        pytest.fail("the block must not run")


def test_who_waits_for_memory_is_woken_by_the_cancellation() -> None:
    budget, cancellation = MemoryBudget(10), Cancellation()
    refused = threading.Event()

    def wait() -> None:
        with pytest.raises(OperationCanceled), budget.buffer(1, cancellation):
            pytest.fail("there is no memory")
        refused.set()

    with budget.buffer(10, Cancellation()):
        thread = threading.Thread(target=wait)
        thread.start()
        cancellation.cancel("over")
        assert refused.wait(10)
        thread.join()


def test_a_large_request_is_not_passed_for_ever_by_small_ones() -> None:
    budget, cancellation = MemoryBudget(10), Cancellation()
    first = budget.take(6, cancellation)
    with ThreadPoolExecutor(2) as pool:
        large = pool.submit(budget.take, 10, cancellation)
        eventually(lambda: budget.waiting == 1, what="the large one waits")
        assert budget.take_if_free(1) is None
        small = pool.submit(budget.take, 1, cancellation)
        eventually(lambda: budget.waiting == 2, what="the small one waits behind it")
        budget.give_back(first)
        budget.give_back(large.result(10))
        assert len(small.result(10)) == 1


def test_a_buffer_is_used_again() -> None:
    budget, cancellation = MemoryBudget(10), Cancellation()
    first = budget.take(5, cancellation)
    budget.give_back(first)
    assert budget.take(5, cancellation) is first


def test_idle_buffers_of_other_sizes_make_room() -> None:
    budget, cancellation = MemoryBudget(10), Cancellation()
    for size in (4, 3, 10, 5, 5):
        with budget.buffer(size, cancellation) as buffer:
            assert len(buffer) == size
    assert budget.held <= 10


def test_a_ring_grows_while_memory_is_free_and_gives_all_back() -> None:
    budget, cancellation = MemoryBudget(10), Cancellation()
    with BufferRing(budget, budget.take(4, cancellation)) as ring:
        first, second = ring.take(cancellation), ring.take(cancellation)
        assert first is not second
        ring.give_back(second)
        assert ring.take(cancellation) is second
        ring.give_back(first)
        ring.give_back(second)
    assert len(budget.take(10, cancellation)) == 10


def test_a_ring_without_free_memory_waits_for_its_own_and_for_the_cancellation() -> None:
    budget, cancellation = MemoryBudget(4), Cancellation()
    with BufferRing(budget, budget.take(4, cancellation)) as ring:
        only = ring.take(cancellation)
        refused = threading.Event()

        def wait() -> None:
            with pytest.raises(OperationCanceled):
                ring.take(cancellation)
            refused.set()

        thread = threading.Thread(target=wait)
        thread.start()
        cancellation.cancel("over")
        assert refused.wait(10)
        thread.join()
        ring.give_back(only)


MIB = 2**20
LIMIT = 64 * MIB
SHARE = LIMIT // 8
MOST = LIMIT * 5 // 8


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait for no other image's manifests."""
    monkeypatch.setattr(memory, "LONGEST_WAIT", 0.0)


def manifests(budget: MemoryBudget, cancellation: Cancellation | None = None) -> ManifestMemory:
    return ManifestMemory(budget, "x.com/a:1", cancellation or Cancellation())


def test_the_manifests_of_ordinary_images_count_for_nothing() -> None:
    budget = MemoryBudget(LIMIT)
    for _ in range(8):
        manifests(budget).hold(FREE - 200 * BLOB_BYTES, blobs=200)
    assert budget.reserved == 0
    assert budget.take_if_free(LIMIT) is not None


def test_manifests_leave_less_for_buffers_until_their_task_has_ended() -> None:
    budget, cancellation = MemoryBudget(LIMIT), Cancellation()
    with manifests(budget) as held, ThreadPoolExecutor(1) as pool:
        held.hold(10 * MIB, blobs=10 * MIB // BLOB_BYTES)
        assert 19 * MIB < budget.reserved <= 20 * MIB
        first = budget.take(44 * MIB, cancellation)
        second = pool.submit(budget.take, 2 * MIB, cancellation)
        eventually(lambda: budget.waiting == 1, what="the second buffer waits")
        held.__exit__()
        assert len(second.result(10)) == 2 * MIB
        budget.give_back(first)
    assert budget.reserved == 0


def test_idle_buffers_make_room_for_manifests() -> None:
    budget = MemoryBudget(LIMIT)
    budget.give_back(budget.take(LIMIT, Cancellation()))
    with manifests(budget) as held:
        held.hold(MOST)
        assert budget.held + budget.reserved <= LIMIT
    buffer = budget.take(LIMIT, Cancellation())
    with manifests(budget) as held, ThreadPoolExecutor(1) as pool:
        holding = pool.submit(held.hold, MOST)
        eventually(lambda: budget.reserved == MOST, what="it waits for the buffer")
        assert not holding.done()
        budget.give_back(buffer)
        holding.result(10)
        assert budget.held + budget.reserved <= LIMIT


@pytest.mark.usefixtures("impatient")
def test_one_image_at_a_time_may_have_more_than_its_share_and_always_gets_it() -> None:
    budget = MemoryBudget(LIMIT)
    with manifests(budget) as small, manifests(budget) as large, manifests(budget) as other:
        small.hold(FREE + SHARE)
        large.hold(MOST // 2)
        other.hold(FREE)
        with pytest.raises(MemoryBusy) as refused:
            other.hold(1)
        assert 5 <= refused.value.retry_after <= 15
        large.hold(MOST // 2)
        assert budget.reserved == SHARE + MOST
        with pytest.raises(ManifestInvalid, match="more than it has") as never:
            large.hold(1)
        assert "MIRROR_MEMORY_BUDGET" in never.value.hint
    with other:
        other.hold(MOST - FREE)
    assert budget.reserved == 0


def test_who_waits_for_the_manifests_of_others_gets_their_room() -> None:
    budget = MemoryBudget(LIMIT)
    with ThreadPoolExecutor(1) as pool, manifests(budget) as second:
        with manifests(budget) as first:
            first.hold(MOST)
            waiting = pool.submit(second.hold, MOST)
        waiting.result(10)
        assert budget.reserved == MOST


def test_who_waits_for_room_is_woken_by_the_cancellation() -> None:
    budget, cancellation = MemoryBudget(LIMIT), Cancellation()
    buffer = budget.take(LIMIT, Cancellation())
    with ThreadPoolExecutor(1) as pool, manifests(budget, cancellation) as held:
        waiting = pool.submit(held.hold, MOST)
        eventually(lambda: budget.waiting == 1, what="it waits")
        cancellation.cancel("over")
        with pytest.raises(OperationCanceled):
            waiting.result(10)
    budget.give_back(buffer)
    assert budget.reserved == 0


def test_a_part_that_is_larger_than_what_manifests_leave_comes_when_no_other_is_under_way() -> None:
    budget, cancellation = MemoryBudget(LIMIT), Cancellation()
    with manifests(budget) as held, ThreadPoolExecutor(1) as pool:
        held.hold(MOST)
        first = budget.take(MIB, cancellation)
        large = pool.submit(budget.take, LIMIT // 2, cancellation)
        eventually(lambda: budget.waiting == 1, what="the large part waits")
        budget.give_back(first)
        budget.give_back(large.result(10))


@pytest.mark.usefixtures("impatient")
def test_images_of_all_sizes_and_their_parts_all_come_through_within_the_budget() -> None:
    """Each image grows its manifests in steps, then takes buffers. One that finds no room begins again."""
    budget, cancellation = MemoryBudget(LIMIT), Cancellation()
    lock, buffers, most = threading.Lock(), 0, 0

    def use(size: int) -> None:
        nonlocal buffers, most
        with budget.buffer(size, cancellation):
            with lock:
                buffers += size
                most = max(most, buffers + budget.reserved)
            with lock:
                buffers -= size

    def copy(step: int) -> None:
        done = False
        while not done:
            with suppress(MemoryBusy), manifests(budget) as held:
                for _ in range(4):
                    held.hold(step)
                for size in (16 * MIB, 3 * MIB, 16 * MIB):
                    use(size)
                done = True

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(copy, [10 * MIB, 100, MIB, 9 * MIB, 2 * MIB, 5 * MIB, 8 * MIB, MIB // 4] * 5))
    assert 0 < most <= LIMIT
    assert (budget.reserved, buffers) == (0, 0)
