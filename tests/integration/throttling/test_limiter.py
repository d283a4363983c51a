"""The limiter of one process: threads wait for slots, their wait can be ended, and Redis may be away."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mirror.errors import RegistryBusy
from mirror.redis import keys
from mirror.redis.client import Redis
from mirror.throttling import limiter as limiter_module
from mirror.throttling import semaphore as semaphore_module
from mirror.throttling.aimd import MOST_OF_ONE, AimdLimits, Share, Usage
from mirror.throttling.limiter import Limiter
from mirror.throttling.semaphore import Semaphore
from tests.e2e.processes import eventually
from tests.support.servers import ValkeyServer

WHERE = ("registry.example", "blobs")
DONE = True


class Away(Exception):
    """The wait was ended from outside."""


@pytest.fixture
def limiter(redis: Redis) -> Iterator[Limiter]:
    limiter = Limiter(AimdLimits(redis, {"registry.example": 2}))
    yield limiter
    limiter.close()


def stay(_: float) -> None:
    """Wait longer."""


def holders(redis: Redis) -> int:
    return int(redis.call("ZCARD", keys.limiter("holders", *WHERE)))


def test_the_share_of_slots_is_taken_and_the_next_when_one_is_given_back(limiter: Limiter) -> None:
    first, second = limiter.enter(*WHERE, stay), limiter.enter(*WHERE, stay)
    looked = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        third = pool.submit(limiter.enter, *WHERE, lambda _: looked.set())
        assert looked.wait(20)
        assert not third.done()
        first(DONE)
        third.result(20)(DONE)
    second(DONE)


def test_the_wait_for_a_slot_can_be_ended_from_outside(limiter: Limiter) -> None:
    leave = [limiter.enter(*WHERE, stay) for _ in range(2)]

    def end_wait(_: float) -> None:
        raise Away

    with pytest.raises(Away):
        limiter.enter(*WHERE, end_wait)
    for each in leave:
        each(DONE)
    limiter.enter(*WHERE, end_wait)(DONE)


def test_a_share_of_0_does_not_occupy_a_worker(redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(semaphore_module, "NO_SHARE_SECONDS", 0.0)
    limits = AimdLimits(redis, {"registry.example": 1})
    one, other = Limiter(limits), Limiter(limits)
    leave = one.enter(*WHERE, stay)
    with pytest.raises(RegistryBusy) as caught:
        other.enter(*WHERE, stay)
    assert (caught.value.waits_for, caught.value.registry) == ("registry_busy", "registry.example")
    leave(DONE)
    one.close()
    monkeypatch.undo()
    other.enter(*WHERE, stay)(DONE)
    other.close()


def test_waiting_ends_if_no_slot_is_released(limiter: Limiter, monkeypatch: pytest.MonkeyPatch) -> None:
    """The threads that hold the slots may wait for something that this thread has."""
    monkeypatch.setattr(semaphore_module, "STUCK_SECONDS", 0.0)
    leave = [limiter.enter(*WHERE, stay) for _ in range(2)]
    with pytest.raises(RegistryBusy):
        limiter.enter(*WHERE, stay)
    for each in leave:
        each(DONE)


def test_a_second_process_gets_its_share_when_the_first_has_reported(
    redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limiter_module, "REPORT_SECONDS", 0.01)
    limits = AimdLimits(redis, {"registry.example": 2})
    one, other = Limiter(limits), Limiter(limits)
    leave = one.enter(*WHERE, stay)
    other.enter(*WHERE, stay)(DONE)
    leave(DONE)
    one.close()
    other.close()


def test_a_share_that_is_not_used_is_given_back_and_the_thread_ends(
    limiter: Limiter, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limiter_module, "REPORT_SECONDS", 0.01)
    monkeypatch.setattr(limiter_module, "IDLE_SECONDS", 0.0)
    limiter.enter(*WHERE, stay)(DONE)
    eventually(lambda: holders(redis) == 0, what="the share is given back")
    eventually(lambda: "limiter" not in [thread.name for thread in threading.enumerate()], what="the thread ends")
    leave = limiter.enter(*WHERE, stay)
    assert holders(redis) == 1
    leave(DONE)


def test_a_slot_in_use_for_long_keeps_its_share(
    limiter: Limiter, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limiter_module, "REPORT_SECONDS", 0.01)
    monkeypatch.setattr(limiter_module, "IDLE_SECONDS", 0.0)
    leave = limiter.enter(*WHERE, stay)
    redis.call("DEL", keys.limiter("holders", *WHERE), keys.limiter("shares", *WHERE))  # as if Redis had lost its data
    eventually(lambda: holders(redis) == 1, what="it is reported again")
    leave(DONE)


def test_overload_is_reported_at_once_and_backed_off_from(limiter: Limiter, redis: Redis) -> None:
    leave = limiter.enter(*WHERE, stay)
    assert 1 <= limiter.troubled(*WHERE) <= 10
    assert redis.call("HMGET", keys.limiter("limit", *WHERE), "limit", "streak") == ["1", "1"]
    leave(not DONE)


def test_with_redis_gone_the_last_share_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limiter_module, "REPORT_SECONDS", 0.01)
    with ValkeyServer(tmp_path) as server:
        redis = Redis.connect(server.url, retries=0)
        limiter = Limiter(AimdLimits(redis, {}))
        limiter.enter(*WHERE, stay)(DONE)
    leave = [limiter.enter(*WHERE, stay) for _ in range(MOST_OF_ONE)]
    limiter.troubled(*WHERE)
    for each in leave:
        each(DONE)
    limiter.close()
    redis.close()


def test_a_process_that_never_reached_redis_has_a_small_share(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(semaphore_module, "STUCK_SECONDS", 0.0)
    with ValkeyServer(tmp_path) as server:
        redis = Redis.connect(server.url, retries=0)
    limiter = Limiter(AimdLimits(redis, {}))
    leave = [limiter.enter(*WHERE, stay) for _ in range(4)]
    with pytest.raises(RegistryBusy):
        limiter.enter(*WHERE, stay)
    for each in leave:
        each(DONE)
    limiter.close()
    redis.close()


def test_a_forked_child_starts_with_semaphores_of_its_own_under_its_parents_name(
    limiter: Limiter, redis: Redis
) -> None:
    """A lock that another thread held at the fork would be held for ever."""
    leave = limiter.enter(*WHERE, stay)
    with limiter._lock:
        child = os.fork()
        if child == 0:
            status = 1
            try:
                limiter.enter(*WHERE, stay)(DONE)
                status = 0 if holders(redis) == 1 else 2
            finally:
                os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    leave(DONE)


def test_slots_taken_during_a_report_are_not_granted_to_other_processes(redis: Redis) -> None:
    """The share gets smaller in Redis before the semaphore knows."""
    limits, semaphore = AimdLimits(redis, {"registry.example": 2}), Semaphore()
    semaphore.set_share(limits.report(*WHERE, "one", semaphore.usage()))
    limits.report(*WHERE, "other", Usage())
    smaller = limits.report(*WHERE, "one", semaphore.usage())
    assert smaller.slots == 1
    for _ in range(2):
        semaphore.announce()
        assert semaphore.acquire(stay, lambda: None)
    assert limits.report(*WHERE, "other", Usage()).slots == 0
    semaphore.set_share(smaller)
    semaphore.release(succeeded=True)
    semaphore.set_share(limits.report(*WHERE, "one", semaphore.usage()))
    assert limits.report(*WHERE, "other", Usage()).slots == 1


def test_two_reports_for_one_semaphore_never_run_at_once(redis: Redis) -> None:
    inside, most = 0, 0

    class Watched(AimdLimits):
        def report(self, registry: str, action: str, holder: str, usage: Usage) -> Share:
            nonlocal inside, most
            inside += 1
            most = max(most, inside)
            try:
                return super().report(registry, action, holder, usage)
            finally:
                inside -= 1

    limiter = Limiter(Watched(redis, {}))
    leave = limiter.enter(*WHERE, stay)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: limiter.troubled(*WHERE), range(100)))
    leave(DONE)
    limiter.close()
    assert most == 1


def test_a_share_may_be_less_than_is_in_use() -> None:
    semaphore = Semaphore()
    semaphore.set_share(Share(2, 2, 0))
    for _ in range(2):
        semaphore.announce()
        assert semaphore.acquire(stay, lambda: None)
    semaphore.set_share(Share(1, 1, 0))
    semaphore.release(succeeded=True)
    assert semaphore.usage().may_use == 1
    semaphore.release(succeeded=True)
    semaphore.announce()
    assert semaphore.acquire(stay, lambda: None)


def test_a_registry_whose_reports_fail_does_not_hold_up_another(redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    """The keys of one registry are of the wrong type. Requests to it go on, and so do reports for the other."""
    monkeypatch.setattr(limiter_module, "REPORT_SECONDS", 0.01)
    redis.call("SET", keys.limiter("limit", "odd.example", "blobs"), "not a hash")
    limiter = Limiter(AimdLimits(redis, {}))
    odd = limiter.enter("odd.example", "blobs", stay)
    leave = limiter.enter(*WHERE, stay)
    redis.call("DEL", keys.limiter("holders", *WHERE))
    eventually(lambda: holders(redis) == 1, what="it is reported again")
    odd(DONE)
    leave(DONE)
    limiter.close()
