from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from mirror.redis.client import Redis
from mirror.throttling.circuit_breaker import (
    FAILURES,
    HEADLESS_SECONDS,
    LONGEST_OPEN,
    OPEN_SECONDS,
    PROBE_SECONDS,
    CircuitBreaker,
    RegistryOutage,
)
from mirror.throttling.tolerance import Tolerance
from tests.support.stopped_clock import StoppedClock

HUB = "docker.io"


@pytest.fixture
def clock(redis: Redis) -> StoppedClock:
    return StoppedClock(redis)


@pytest.fixture
def breaker(redis: Redis, clock: StoppedClock) -> CircuitBreaker:
    """A breaker with a registry that is known to work."""
    breaker = CircuitBreaker(redis, Tolerance())
    breaker.answered(HUB, served=True)
    return breaker


def failure(breaker: CircuitBreaker, registry: str = HUB, cause: str = "", *, answered: bool = False) -> RegistryOutage:
    """Count a failure."""
    outage = breaker.count_failure(registry, cause, answered=answered)
    assert outage is not None
    return outage


def fail(breaker: CircuitBreaker, times: int = FAILURES) -> float:
    """Count failures in a row. Return the seconds until the registry is asked again."""
    return [failure(breaker) for _ in range(times)][-1].wait


def in_another_process(redis: Redis) -> CircuitBreaker:
    """Return the same breaker as another process has it."""
    return CircuitBreaker(redis, Tolerance())


def test_it_opens_for_all_processes_after_five_failures_in_a_row(breaker: CircuitBreaker, redis: Redis) -> None:
    fail(breaker, FAILURES - 1)
    assert breaker.check(HUB) is None
    wait = fail(breaker, 1)
    assert 0.8 * OPEN_SECONDS <= wait <= 1.2 * OPEN_SECONDS
    for each in (breaker, in_another_process(redis)):
        outage = each.check(HUB)
        assert outage is not None
        assert (outage.known, outage.wait) == (True, wait)


def test_a_success_in_between_starts_a_new_row(breaker: CircuitBreaker) -> None:
    fail(breaker, FAILURES - 1)
    breaker.answered(HUB, served=True)
    fail(breaker, FAILURES - 1)
    assert breaker.check(HUB) is None


def test_a_success_of_another_worker_counts_too(breaker: CircuitBreaker, redis: Redis) -> None:
    fail(breaker, FAILURES - 1)
    other = in_another_process(redis)
    other.check(HUB)
    other.answered(HUB, served=False)
    fail(breaker, FAILURES - 1)
    assert breaker.check(HUB) is None


def test_failures_that_are_more_than_a_minute_apart_are_no_row(breaker: CircuitBreaker, clock: StoppedClock) -> None:
    fail(breaker, FAILURES - 1)
    clock.advance(61)
    fail(breaker, FAILURES - 1)
    assert breaker.check(HUB) is None


def test_one_probe_is_sent_and_the_others_wait_for_it(
    breaker: CircuitBreaker, redis: Redis, clock: StoppedClock
) -> None:
    clock.advance(fail(breaker) + 1)
    outages = [each.check(HUB) for each in (breaker, breaker, in_another_process(redis), in_another_process(redis))]
    assert outages[0] is None
    assert None not in outages[1:]
    clock.advance(PROBE_SECONDS)  # the probe's worker has died
    assert in_another_process(redis).check(HUB) is None


@pytest.mark.parametrize("served", [True, False])
def test_a_probe_that_is_answered_closes_it(
    breaker: CircuitBreaker, redis: Redis, clock: StoppedClock, *, served: bool
) -> None:
    clock.advance(fail(breaker) + 1)
    assert breaker.check(HUB) is None
    breaker.answered(HUB, served=served)
    assert in_another_process(redis).check(HUB) is None
    fail(breaker, FAILURES - 1)
    assert in_another_process(redis).check(HUB) is None


def test_a_probe_that_fails_opens_it_for_twice_as_long_up_to_five_minutes(
    breaker: CircuitBreaker, clock: StoppedClock
) -> None:
    wait, expected = fail(breaker), OPEN_SECONDS
    for _ in range(6):
        clock.advance(wait + 1)
        assert breaker.check(HUB) is None
        wait, expected = fail(breaker, 1), min(LONGEST_OPEN, 2 * expected)
        assert 0.8 * expected <= wait <= 1.2 * expected


def test_failures_of_pending_requests_do_not_open_it_longer(breaker: CircuitBreaker) -> None:
    wait = fail(breaker)
    assert fail(breaker, 10) == wait


def test_a_registry_that_never_answered_is_not_known_to_work(redis: Redis) -> None:
    breaker = CircuitBreaker(redis, Tolerance())
    breaker.answered("typo.example", served=False)
    assert not failure(breaker, "typo.example").known


def test_a_registry_is_known_to_work_for_thirty_days(breaker: CircuitBreaker, clock: StoppedClock) -> None:
    clock.advance(30 * 86400 - 1)
    assert failure(breaker).known
    clock.advance(2)
    assert not failure(breaker).known


def test_a_registry_that_never_answered_is_asked_again_soon(redis: Redis, clock: StoppedClock) -> None:
    """An operator may just be setting it up."""
    breaker = CircuitBreaker(redis, Tolerance())
    for _ in range(10):
        wait = failure(breaker, "new.example").wait
        clock.advance(wait + 1)
        breaker.check("new.example")
    assert wait <= 1.2 * OPEN_SECONDS


def test_requests_to_a_working_registry_send_few_commands(breaker: CircuitBreaker, redis: Redis) -> None:
    breaker.check(HUB)
    before = redis.client.info("stats")["total_commands_processed"]
    for _ in range(100):
        breaker.check(HUB)
        breaker.answered(HUB, served=True)
    assert redis.client.info("stats")["total_commands_processed"] - before < 10


def test_of_many_threads_that_start_together_one_asks_redis_and_one_writes(
    breaker: CircuitBreaker, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = in_another_process(redis)
    asked: list[str] = []

    def counted(name: str) -> None:
        script = getattr(other, name)

        def run(*args: object) -> object:
            asked.append(name)
            return script(*args)

        monkeypatch.setattr(other, name, run)

    counted("_permit")
    counted("_answered")
    fail(breaker, 1)
    start = threading.Barrier(8)

    def ask(_: int) -> None:
        start.wait()
        assert other.check(HUB) is None
        start.wait()
        other.answered(HUB, served=True)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(ask, range(8)))
    assert asked == ["_permit", "_answered"]


def test_all_processes_know_the_last_cause_until_the_registry_answers(
    breaker: CircuitBreaker, redis: Redis, clock: StoppedClock
) -> None:
    fail(breaker)
    failure(breaker, HUB, "it answered 500", answered=True)
    outage = in_another_process(redis).check(HUB)
    assert outage is not None
    assert (outage.cause, outage.answered) == ("it answered 500", True)
    breaker.answered(HUB, served=True)
    assert failure(breaker).cause == ""


def test_after_a_probe_that_showed_nothing_the_next_request_is_one(
    breaker: CircuitBreaker, redis: Redis, clock: StoppedClock
) -> None:
    clock.advance(fail(breaker) + 1)
    assert breaker.check(HUB) is None
    assert in_another_process(redis).check(HUB) is not None
    breaker.undecided(HUB)
    assert in_another_process(redis).check(HUB) is None


def test_a_request_that_was_no_probe_and_showed_nothing_costs_no_command(breaker: CircuitBreaker, redis: Redis) -> None:
    breaker.check(HUB)
    before = redis.client.info("stats")["total_commands_processed"]
    breaker.undecided(HUB)
    assert redis.client.info("stats")["total_commands_processed"] == before + 1  # INFO itself


def test_all_processes_skip_heads_that_are_of_no_use_for_a_while(
    breaker: CircuitBreaker, redis: Redis, clock: StoppedClock
) -> None:
    breaker.note_headless(HUB)
    assert breaker.is_headless(HUB)
    other = in_another_process(redis)
    assert not other.is_headless(HUB)  # it has not asked Redis yet
    other.check(HUB)
    assert other.is_headless(HUB)
    clock.advance(HEADLESS_SECONDS + 1)
    later = in_another_process(redis)
    later.check(HUB)
    assert not later.is_headless(HUB)
