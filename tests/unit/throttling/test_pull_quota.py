"""The ledger of pull limits. Its answers may overtake each other, its workers die, and its registry's windows roll."""

from __future__ import annotations

import pytest

from mirror.errors import LONGEST_REST
from mirror.redis import keys
from mirror.redis.client import Redis
from mirror.throttling.pull_quota import RESERVED_SECONDS, QuotaLedger, Verdict
from tests.support.stopped_clock import StoppedClock

ACCOUNT = ("docker.io", "anonymous", "192-0-2-7")
WINDOW = 600


@pytest.fixture
def clock(redis: Redis) -> StoppedClock:
    return StoppedClock(redis)


@pytest.fixture
def ledger(redis: Redis, clock: StoppedClock) -> QuotaLedger:
    return QuotaLedger(redis)


def tell(ledger: QuotaLedger, remaining: int, *, elapsed: float = 0, unit: str | None = None) -> None:
    ledger.tell(ACCOUNT, limit=10, window=WINDOW, remaining=remaining, elapsed=elapsed, unit=unit)


def reserve(ledger: QuotaLedger, *units: str, asked: bool = False) -> Verdict:
    return ledger.reserve(ACCOUNT, units, asked=asked)


def left(ledger: QuotaLedger) -> int:
    """How many can be reserved, found out by reserving them; they are given back."""
    units = [f"probe-{number}" for number in range(20)]
    count = 0
    while reserve(ledger, units[count]).granted:
        count += 1
    if count:
        ledger.give_back(ACCOUNT, units[:count])
    return count


def test_where_no_limit_was_told_everything_is_granted(ledger: QuotaLedger) -> None:
    assert reserve(ledger, *(str(number) for number in range(1000))).granted
    assert not ledger.is_limited("docker.io")


def test_what_was_told_less_what_is_reserved_can_be_reserved(ledger: QuotaLedger) -> None:
    tell(ledger, 5)
    assert reserve(ledger, "a", "b").granted
    assert left(ledger) == 3
    assert ledger.is_limited("docker.io")


def test_all_units_are_reserved_or_none(ledger: QuotaLedger) -> None:
    tell(ledger, 3)
    assert not reserve(ledger, "a", "b", "c", "d").granted
    assert left(ledger) == 3


def test_a_reservation_that_is_sent_twice_counts_once(ledger: QuotaLedger) -> None:
    tell(ledger, 3)
    for _ in range(2):
        assert reserve(ledger, "a", "b").granted
    assert left(ledger) == 1


def test_an_answer_settles_its_own_reservation(ledger: QuotaLedger) -> None:
    tell(ledger, 5)
    reserve(ledger, "a", "b")
    tell(ledger, 4, unit="a")
    assert left(ledger) == 3
    tell(ledger, 3, unit="b")
    assert left(ledger) == 3


def test_an_answer_that_was_overtaken_does_not_bring_back_what_is_spent(
    ledger: QuotaLedger, clock: StoppedClock
) -> None:
    reserve(ledger, "a", "b")
    tell(ledger, 3, unit="b")
    tell(ledger, 4, elapsed=2, unit="a")
    assert left(ledger) == 3
    clock.advance(5)
    tell(ledger, 9, elapsed=2)
    assert left(ledger) == 9


def test_an_answer_that_tells_nothing_costs_one_and_only_once(ledger: QuotaLedger) -> None:
    tell(ledger, 5)
    reserve(ledger, "a")
    for _ in range(2):
        ledger.spend(ACCOUNT, "a")
    assert left(ledger) == 4


def test_what_a_dead_worker_has_reserved_is_free_again(ledger: QuotaLedger, clock: StoppedClock) -> None:
    tell(ledger, 2)
    reserve(ledger, "a", "b")
    verdict = reserve(ledger, "c")
    assert (verdict.granted, verdict.undecided, verdict.wait) == (False, True, RESERVED_SECONDS)
    clock.advance(RESERVED_SECONDS)
    assert left(ledger) == 2


def test_too_little_is_waited_for_until_the_window_ends(ledger: QuotaLedger, clock: StoppedClock) -> None:
    tell(ledger, 10)
    clock.advance(100)
    tell(ledger, 9)  # the window has begun
    clock.advance(50)
    tell(ledger, 0)
    verdict = reserve(ledger, "a")
    assert (verdict.granted, verdict.undecided, verdict.wait) == (False, False, WINDOW - 50)


def test_a_window_that_rolls_is_looked_at_again_every_twentieth(ledger: QuotaLedger, clock: StoppedClock) -> None:
    tell(ledger, 1)
    clock.advance(WINDOW)
    tell(ledger, 1)
    assert reserve(ledger, "a", "b").wait == WINDOW / 20


def test_a_new_window_is_seen_by_what_is_told(ledger: QuotaLedger, clock: StoppedClock) -> None:
    tell(ledger, 0)
    clock.advance(WINDOW)
    tell(ledger, 10)
    assert left(ledger) == 10
    clock.advance(100)
    tell(ledger, 0)
    assert reserve(ledger, "a").wait == WINDOW


def test_where_asking_tells_nothing_a_new_window_is_taken_to_have_begun(
    ledger: QuotaLedger, clock: StoppedClock
) -> None:
    tell(ledger, 0)
    clock.advance(WINDOW - 1)
    assert not reserve(ledger, "a", asked=True).granted
    clock.advance(1)
    assert not reserve(ledger, "a").granted
    assert reserve(ledger, "a", asked=True).granted


def test_a_refusal_for_the_limits_sake_ends_the_window_for_all(ledger: QuotaLedger, clock: StoppedClock) -> None:
    assert ledger.used_up(ACCOUNT) is None
    tell(ledger, 9)
    clock.advance(100)
    assert ledger.used_up(ACCOUNT) == WINDOW - 100
    assert left(ledger) == 0


def test_more_than_a_whole_window_is_granted_when_a_whole_window_is_there(ledger: QuotaLedger) -> None:
    many = [f"unit-{number}" for number in range(25)]
    tell(ledger, 9)
    assert not reserve(ledger, *many).granted
    tell(ledger, 10)
    assert reserve(ledger, *many).granted
    assert left(ledger) == 0


def test_every_account_has_a_ledger_of_its_own(ledger: QuotaLedger) -> None:
    tell(ledger, 0)
    for other in [("docker.io", "gordon", "192-0-2-7"), ("docker.io", "anonymous", "elsewhere"), ("ghcr.io", "a", "-")]:
        assert ledger.reserve(other, ["a"], asked=False).granted


def test_an_images_cost_is_remembered(ledger: QuotaLedger) -> None:
    assert ledger.cost("sha256:a") == 1
    ledger.note_cost("sha256:a", 7)
    assert ledger.cost("sha256:a") == 7


@pytest.mark.parametrize("window", [LONGEST_REST + 1, 999_999_999, 1e15])
def test_a_window_of_decades_is_waited_for_a_day_and_its_ledger_expires(
    ledger: QuotaLedger, redis: Redis, window: float
) -> None:
    ledger.tell(ACCOUNT, limit=10, window=window, remaining=0, elapsed=0, unit=None)
    verdict = reserve(ledger, "a")
    assert (verdict.granted, verdict.wait) == (False, LONGEST_REST)
    assert ledger.used_up(ACCOUNT) == LONGEST_REST
    for key in (keys.quota("ledger", *ACCOUNT), keys.quota("limited", ACCOUNT[0])):
        assert 0 < redis.call("TTL", key) <= 2 * LONGEST_REST


def test_a_ledger_that_an_older_release_filled_with_decades_heals(
    ledger: QuotaLedger, redis: Redis, clock: StoppedClock
) -> None:
    tell(ledger, 0)
    poisoned, century = keys.quota("ledger", *ACCOUNT), 100 * 365 * 86400
    redis.call("HSET", poisoned, "window", century * 1000)
    for key in (poisoned, keys.quota("limited", "docker.io")):
        redis.call("EXPIRE", key, century)
    assert ledger.is_limited("docker.io")
    assert reserve(ledger, "a").wait <= LONGEST_REST
    for key in (poisoned, keys.quota("limited", "docker.io")):
        assert redis.call("TTL", key) <= 2 * LONGEST_REST
    clock.advance(LONGEST_REST + 1)
    assert reserve(ledger, "a", asked=True).granted
    assert not ledger.is_limited("quay.io")
