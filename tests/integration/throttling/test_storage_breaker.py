from __future__ import annotations

from mirror.redis import keys
from mirror.redis.client import Redis
from mirror.throttling.storage_breaker import (
    LONGEST_OPEN,
    OPEN_SECONDS,
    TRIAL_SECONDS,
    StorageBreaker,
    StorageTrouble,
    WritePermit,
)

FULL = StorageTrouble("STORAGE_FULL", "write key", "its disk is full", size=1000)
FREE = WritePermit(wait=None, is_trial=False)
TRIAL = WritePermit(wait=None, is_trial=True)


def reach_the_next_trial(redis: Redis) -> None:
    redis.call("HSET", keys.STORAGE_TROUBLE, "next", redis.now() - 1)


def test_while_it_is_closed_all_tasks_may_write(redis: Redis) -> None:
    breaker = StorageBreaker(redis)
    assert [breaker.admit("a"), breaker.admit("b")] == [FREE, FREE]
    assert breaker.trouble() is None


def test_after_a_failure_no_task_may_write_until_one_is_the_trial(redis: Redis) -> None:
    breaker = StorageBreaker(redis)
    wait = breaker.failed("a", FULL)
    assert 0.9 * OPEN_SECONDS - 1 < wait <= 1.1 * OPEN_SECONDS
    held = breaker.admit("b")
    assert held.wait is not None
    assert 0 < held.wait <= wait
    reach_the_next_trial(redis)
    assert breaker.admit("b") == TRIAL
    assert breaker.admit("b") == TRIAL  # the reply may have been lost
    other = breaker.admit("c")
    assert other.wait is not None
    assert other.wait <= TRIAL_SECONDS
    breaker.succeeded("c")
    assert breaker.trouble() == FULL
    breaker.succeeded("b")
    assert breaker.trouble() is None
    assert breaker.admit("c") == FREE


def test_failed_trials_double_the_wait_and_simultaneous_failures_count_as_one(redis: Redis) -> None:
    breaker = StorageBreaker(redis)
    waits = []
    for number in range(6):
        waits.append(breaker.failed(f"trial-{number - 1}", FULL))
        assert breaker.failed("one that was begun before", FULL) <= waits[-1]
        reach_the_next_trial(redis)
        assert breaker.admit(f"trial-{number}") == TRIAL
    for number, wait in enumerate(waits):
        expected = min(LONGEST_OPEN, OPEN_SECONDS * 2**number)
        assert 0.9 * expected - 1 < wait <= 1.1 * expected


def test_the_largest_write_that_failed_is_remembered(redis: Redis) -> None:
    breaker = StorageBreaker(redis)
    breaker.failed("a", FULL)
    breaker.failed("b", StorageTrouble("STORAGE_UNAVAILABLE", "write other", "InternalError", size=10))
    assert breaker.trouble() == StorageTrouble("STORAGE_UNAVAILABLE", "write other", "InternalError", size=1000)
