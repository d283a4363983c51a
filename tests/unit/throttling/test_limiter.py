"""The gates of one process: threads wait at them, can be called away, and go on with Redis away."""

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
from mirror.throttling import limiter as slots_module
from mirror.throttling import semaphore as gate_module
from mirror.throttling.aimd import MOST_OF_ONE, AimdLimits, Share, Usage
from mirror.throttling.limiter import Limiter
from mirror.throttling.semaphore import Semaphore
from tests.e2e.processes import eventually
from tests.servers import ValkeyServer

WHERE = ("registry.example", "blobs")
DONE = True


class Away(Exception):
    """The wait was ended from outside."""


@pytest.fixture
def slots(redis: Redis) -> Iterator[Limiter]:
    slots = Limiter(AimdLimits(redis, {"registry.example": 2}))
    yield slots
    slots.close()


def stay(_: float) -> None:
    """Wait on."""


def holders(redis: Redis) -> int:
    return int(redis.call("ZCARD", keys.limiter("holders", *WHERE)))


def test_as_many_enter_as_the_share_allows_and_the_next_when_one_leaves(slots: Limiter) -> None:
    first, second = slots.enter(*WHERE, stay), slots.enter(*WHERE, stay)
    looked = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        third = pool.submit(slots.enter, *WHERE, lambda _: looked.set())
        assert looked.wait(20)
        assert not third.done()
        first(DONE)
        third.result(20)(DONE)
    second(DONE)


def test_a_thread_that_waits_can_be_called_away(slots: Limiter) -> None:
    leave = [slots.enter(*WHERE, stay) for _ in range(2)]

    def call_away(_: float) -> None:
        raise Away

    with pytest.raises(Away):
        slots.enter(*WHERE, call_away)
    for each in leave:
        each(DONE)
    slots.enter(*WHERE, call_away)(DONE)


def test_a_share_of_nothing_is_no_reason_to_occupy_a_worker(redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate_module, "SHUT_SECONDS", 0.0)
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


def test_waiting_ends_where_nobody_comes_out(slots: Limiter, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever is behind the gate may be waiting for what this thread has."""
    monkeypatch.setattr(gate_module, "STUCK_SECONDS", 0.0)
    leave = [slots.enter(*WHERE, stay) for _ in range(2)]
    with pytest.raises(RegistryBusy):
        slots.enter(*WHERE, stay)
    for each in leave:
        each(DONE)


def test_a_second_process_gets_its_share_when_the_first_has_reported(
    redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slots_module, "REPORT_SECONDS", 0.01)
    limits = AimdLimits(redis, {"registry.example": 2})
    one, other = Limiter(limits), Limiter(limits)
    leave = one.enter(*WHERE, stay)
    other.enter(*WHERE, stay)(DONE)
    leave(DONE)
    one.close()
    other.close()


def test_a_share_that_is_not_used_is_given_back_and_the_thread_ends(
    slots: Limiter, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slots_module, "REPORT_SECONDS", 0.01)
    monkeypatch.setattr(slots_module, "IDLE_SECONDS", 0.0)
    slots.enter(*WHERE, stay)(DONE)
    eventually(lambda: holders(redis) == 0, what="the share is given back")
    eventually(lambda: "slots" not in [thread.name for thread in threading.enumerate()], what="the thread ends")
    leave = slots.enter(*WHERE, stay)
    assert holders(redis) == 1
    leave(DONE)


def test_a_slot_that_is_held_long_keeps_its_share(
    slots: Limiter, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slots_module, "REPORT_SECONDS", 0.01)
    monkeypatch.setattr(slots_module, "IDLE_SECONDS", 0.0)
    leave = slots.enter(*WHERE, stay)
    redis.call(
        "DEL", keys.limiter("holders", *WHERE), keys.limiter("shares", *WHERE)
    )  # as if Redis had lost its memory
    eventually(lambda: holders(redis) == 1, what="it is reported again")
    leave(DONE)


def test_trouble_is_reported_at_once(slots: Limiter, redis: Redis) -> None:
    leave = slots.enter(*WHERE, stay)
    assert slots.troubled(*WHERE) == 1
    assert float(redis.call("HGET", keys.limiter("limit", *WHERE), "limit")) == 1
    leave(not DONE)


def test_with_redis_gone_the_last_share_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slots_module, "REPORT_SECONDS", 0.01)
    with ValkeyServer(tmp_path) as server:
        redis = Redis.connect(server.url, retries=0)
        slots = Limiter(AimdLimits(redis, {}))
        slots.enter(*WHERE, stay)(DONE)
    leave = [slots.enter(*WHERE, stay) for _ in range(MOST_OF_ONE)]
    slots.troubled(*WHERE)
    for each in leave:
        each(DONE)
    slots.close()
    redis.close()


def test_a_process_that_never_reached_redis_asks_a_little(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate_module, "STUCK_SECONDS", 0.0)
    with ValkeyServer(tmp_path) as server:
        redis = Redis.connect(server.url, retries=0)
    slots = Limiter(AimdLimits(redis, {}))
    leave = [slots.enter(*WHERE, stay) for _ in range(4)]
    with pytest.raises(RegistryBusy):
        slots.enter(*WHERE, stay)
    for each in leave:
        each(DONE)
    slots.close()
    redis.close()


def test_a_forked_child_begins_with_gates_of_its_own_under_its_parents_name(slots: Limiter, redis: Redis) -> None:
    """A lock that another thread held at the fork would be held for ever."""
    leave = slots.enter(*WHERE, stay)
    with slots._lock:
        child = os.fork()
        if child == 0:
            status = 1
            try:
                slots.enter(*WHERE, stay)(DONE)
                status = 0 if holders(redis) == 1 else 2
            finally:
                os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    leave(DONE)


def test_what_goes_through_while_a_report_is_under_way_is_taken_from_nobody_else(redis: Redis) -> None:
    """The share gets smaller in Redis before its gate knows of it."""
    limits, gate = AimdLimits(redis, {"registry.example": 2}), Semaphore()
    gate.give(limits.report(*WHERE, "one", gate.usage()))
    limits.report(*WHERE, "other", Usage())
    smaller = limits.report(*WHERE, "one", gate.usage())
    assert smaller.slots == 1
    for _ in range(2):
        gate.approach()
        assert gate.enter(stay, lambda: None)
    assert limits.report(*WHERE, "other", Usage()).slots == 0
    gate.give(smaller)
    gate.leave(succeeded=True)
    gate.give(limits.report(*WHERE, "one", gate.usage()))
    assert limits.report(*WHERE, "other", Usage()).slots == 1


def test_of_two_reports_for_a_gate_the_older_answer_never_comes_last(redis: Redis) -> None:
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

    slots = Limiter(Watched(redis, {}))
    leave = slots.enter(*WHERE, stay)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: slots.troubled(*WHERE), range(100)))
    leave(DONE)
    slots.close()
    assert most == 1


def test_a_gate_takes_less_than_is_in_use() -> None:
    gate = Semaphore()
    gate.give(Share(2, 2, 0))
    for _ in range(2):
        gate.approach()
        assert gate.enter(stay, lambda: None)
    gate.give(Share(1, 1, 0))
    gate.leave(succeeded=True)
    assert gate.usage().may_use == 1
    gate.leave(succeeded=True)
    gate.approach()
    assert gate.enter(stay, lambda: None)


def test_what_cannot_be_reported_of_one_registry_holds_up_no_other(
    redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One registry's keys are spoilt: it is asked as before, and the other's shares go on being reported."""
    monkeypatch.setattr(slots_module, "REPORT_SECONDS", 0.01)
    redis.call("SET", keys.limiter("limit", "odd.example", "blobs"), "not a hash")
    slots = Limiter(AimdLimits(redis, {}))
    odd = slots.enter("odd.example", "blobs", stay)
    leave = slots.enter(*WHERE, stay)
    redis.call("DEL", keys.limiter("holders", *WHERE))
    eventually(lambda: holders(redis) == 1, what="it is reported again")
    odd(DONE)
    leave(DONE)
    slots.close()
