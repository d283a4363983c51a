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
)
from tests.support.stopped_clock import StoppedClock

HUB = "docker.io"


@pytest.fixture
def clock(redis: Redis) -> StoppedClock:
    return StoppedClock(redis)


@pytest.fixture
def breaker(redis: Redis, clock: StoppedClock) -> CircuitBreaker:
    """A breaker of a registry that is known to work."""
    breaker = CircuitBreaker(redis)
    breaker.answered(HUB, served=True)
    return breaker


def fail(breaker: CircuitBreaker, times: int = FAILURES) -> float:
    """Seconds until the registry is asked again."""
    return [breaker.failed(HUB) for _ in range(times)][-1].wait


def elsewhere(redis: Redis) -> CircuitBreaker:
    """The same breaker in another process."""
    return CircuitBreaker(redis)


def test_it_opens_after_five_failures_in_a_row_for_everybody(breaker: CircuitBreaker, redis: Redis) -> None:
    fail(breaker, FAILURES - 1)
    assert breaker.permit(HUB) is None
    wait = fail(breaker, 1)
    assert 0.8 * OPEN_SECONDS <= wait <= 1.2 * OPEN_SECONDS
    for each in (breaker, elsewhere(redis)):
        outage = each.permit(HUB)
        assert outage is not None
        assert (outage.known, outage.wait) == (True, wait)


def test_a_success_in_between_begins_the_row_anew(breaker: CircuitBreaker) -> None:
    fail(breaker, FAILURES - 1)
    breaker.answered(HUB, served=True)
    fail(breaker, FAILURES - 1)
    assert breaker.permit(HUB) is None


def test_a_success_of_another_worker_counts_as_well(breaker: CircuitBreaker, redis: Redis) -> None:
    fail(breaker, FAILURES - 1)
    other = elsewhere(redis)
    other.permit(HUB)
    other.answered(HUB, served=False)
    fail(breaker, FAILURES - 1)
    assert breaker.permit(HUB) is None


def test_failures_that_are_more_than_a_minute_apart_are_no_row(breaker: CircuitBreaker, clock: StoppedClock) -> None:
    fail(breaker, FAILURES - 1)
    clock.advance(61)
    fail(breaker, FAILURES - 1)
    assert breaker.permit(HUB) is None


def test_one_probe_is_let_through_and_the_others_wait_for_it(
    breaker: CircuitBreaker, redis: Redis, clock: StoppedClock
) -> None:
    clock.advance(fail(breaker) + 1)
    permitted = [each.permit(HUB) for each in (breaker, breaker, elsewhere(redis), elsewhere(redis))]
    assert permitted[0] is None
    assert None not in permitted[1:]
    clock.advance(PROBE_SECONDS)  # the probe's worker has died
    assert elsewhere(redis).permit(HUB) is None


@pytest.mark.parametrize("served", [True, False])
def test_a_probe_that_is_answered_closes_it(
    breaker: CircuitBreaker, redis: Redis, clock: StoppedClock, *, served: bool
) -> None:
    clock.advance(fail(breaker) + 1)
    assert breaker.permit(HUB) is None
    breaker.answered(HUB, served=served)
    assert elsewhere(redis).permit(HUB) is None
    fail(breaker, FAILURES - 1)
    assert elsewhere(redis).permit(HUB) is None


def test_a_probe_that_fails_opens_it_for_twice_as_long_up_to_five_minutes(
    breaker: CircuitBreaker, clock: StoppedClock
) -> None:
    wait, expected = fail(breaker), OPEN_SECONDS
    for _ in range(6):
        clock.advance(wait + 1)
        assert breaker.permit(HUB) is None
        wait, expected = fail(breaker, 1), min(LONGEST_OPEN, 2 * expected)
        assert 0.8 * expected <= wait <= 1.2 * expected


def test_failures_of_requests_that_were_under_way_do_not_open_it_longer(breaker: CircuitBreaker) -> None:
    wait = fail(breaker)
    assert fail(breaker, 10) == wait


def test_a_registry_that_never_answered_is_not_known_to_work(redis: Redis) -> None:
    breaker = CircuitBreaker(redis)
    breaker.answered("typo.example", served=False)
    assert not breaker.failed("typo.example").known


def test_a_registry_is_known_to_work_for_thirty_days(breaker: CircuitBreaker, clock: StoppedClock) -> None:
    clock.advance(30 * 86400 - 1)
    assert breaker.failed(HUB).known
    clock.advance(2)
    assert not breaker.failed(HUB).known


def test_a_registry_that_never_answered_is_asked_again_soon(redis: Redis, clock: StoppedClock) -> None:
    """Somebody may just be setting it up."""
    breaker = CircuitBreaker(redis)
    for _ in range(10):
        wait = breaker.failed("new.example").wait
        clock.advance(wait + 1)
        breaker.permit("new.example")
    assert wait <= 1.2 * OPEN_SECONDS


def test_a_working_registry_costs_redis_next_to_nothing(breaker: CircuitBreaker, redis: Redis) -> None:
    breaker.permit(HUB)
    before = redis.client.info("stats")["total_commands_processed"]
    for _ in range(100):
        breaker.permit(HUB)
        breaker.answered(HUB, served=True)
    assert redis.client.info("stats")["total_commands_processed"] - before < 10


def test_of_many_threads_that_begin_together_one_asks_and_one_notes(
    breaker: CircuitBreaker, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = elsewhere(redis)
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
        assert other.permit(HUB) is None
        start.wait()
        other.answered(HUB, served=True)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(ask, range(8)))
    assert asked == ["_permit", "_answered"]


def test_what_failed_last_is_told_to_everybody_until_the_registry_answers(
    breaker: CircuitBreaker, redis: Redis, clock: StoppedClock
) -> None:
    fail(breaker)
    breaker.failed(HUB, "it answered 500", answered=True)
    outage = elsewhere(redis).permit(HUB)
    assert outage is not None
    assert (outage.cause, outage.answered) == ("it answered 500", True)
    breaker.answered(HUB, served=True)
    assert breaker.failed(HUB).cause == ""


def test_a_probe_that_told_nothing_lets_the_next_request_be_one(
    breaker: CircuitBreaker, redis: Redis, clock: StoppedClock
) -> None:
    clock.advance(fail(breaker) + 1)
    assert breaker.permit(HUB) is None
    assert elsewhere(redis).permit(HUB) is not None
    breaker.undecided(HUB)
    assert elsewhere(redis).permit(HUB) is None


def test_a_request_that_was_no_probe_costs_nothing_when_it_tells_nothing(breaker: CircuitBreaker, redis: Redis) -> None:
    breaker.permit(HUB)
    before = redis.client.info("stats")["total_commands_processed"]
    breaker.undecided(HUB)
    assert redis.client.info("stats")["total_commands_processed"] == before + 1  # INFO itself


def test_heads_that_are_of_no_use_are_left_out_by_everybody_for_a_while(
    breaker: CircuitBreaker, redis: Redis, clock: StoppedClock
) -> None:
    breaker.note_headless(HUB)
    assert breaker.is_headless(HUB)
    other = elsewhere(redis)
    assert not other.is_headless(HUB)  # it has asked nothing yet
    other.permit(HUB)
    assert other.is_headless(HUB)
    clock.advance(HEADLESS_SECONDS + 1)
    later = elsewhere(redis)
    later.permit(HUB)
    assert not later.is_headless(HUB)
