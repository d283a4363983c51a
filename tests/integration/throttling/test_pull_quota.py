"""The ledger of pull limits: responses overtake each other, workers die, and windows of registries roll."""

from __future__ import annotations

import pytest

from mirror.errors import LONGEST_REST
from mirror.redis import keys
from mirror.redis.client import Redis
from mirror.throttling.pull_quota import RESERVED_SECONDS, PullQuota, QuotaDecision
from mirror.throttling.tolerance import Tolerance
from tests.support.stopped_clock import StoppedClock

ACCOUNT = ("docker.io", "anonymous", "192-0-2-7")
WINDOW = 600


@pytest.fixture
def clock(redis: Redis) -> StoppedClock:
    return StoppedClock(redis)


@pytest.fixture
def quota(redis: Redis, clock: StoppedClock) -> PullQuota:
    return PullQuota(redis, Tolerance())


def tell(quota: PullQuota, remaining: int, *, elapsed: float = 0, unit: str | None = None) -> None:
    quota.tell(ACCOUNT, limit=10, window=WINDOW, remaining=remaining, elapsed=elapsed, unit=unit)


def reserve(quota: PullQuota, *units: str, asked: bool = False) -> QuotaDecision:
    return quota.reserve(ACCOUNT, units, asked=asked)


def left(quota: PullQuota) -> int:
    """Return how many units can be reserved. Reserves them to find out, and gives them back."""
    units = [f"probe-{number}" for number in range(20)]
    count = 0
    while reserve(quota, units[count]).granted:
        count += 1
    if count:
        quota.give_back(ACCOUNT, units[:count])
    return count


def test_without_a_stated_limit_everything_is_granted(quota: PullQuota) -> None:
    assert reserve(quota, *(str(number) for number in range(1000))).granted
    assert not quota.is_limited("docker.io")


def test_what_remains_less_what_is_reserved_can_be_reserved(quota: PullQuota) -> None:
    tell(quota, 5)
    assert reserve(quota, "a", "b").granted
    assert left(quota) == 3
    assert quota.is_limited("docker.io")


def test_all_units_are_reserved_or_none(quota: PullQuota) -> None:
    tell(quota, 3)
    assert not reserve(quota, "a", "b", "c", "d").granted
    assert left(quota) == 3


def test_a_reservation_that_is_sent_twice_counts_once(quota: PullQuota) -> None:
    tell(quota, 3)
    for _ in range(2):
        assert reserve(quota, "a", "b").granted
    assert left(quota) == 1


def test_a_response_settles_its_own_reservation(quota: PullQuota) -> None:
    tell(quota, 5)
    reserve(quota, "a", "b")
    tell(quota, 4, unit="a")
    assert left(quota) == 3
    tell(quota, 3, unit="b")
    assert left(quota) == 3


def test_a_response_that_was_overtaken_does_not_restore_what_is_spent(quota: PullQuota, clock: StoppedClock) -> None:
    reserve(quota, "a", "b")
    tell(quota, 3, unit="b")
    tell(quota, 4, elapsed=2, unit="a")
    assert left(quota) == 3
    clock.advance(5)
    tell(quota, 9, elapsed=2)
    assert left(quota) == 9


def test_a_response_that_states_no_limit_costs_one_unit_once(quota: PullQuota) -> None:
    tell(quota, 5)
    reserve(quota, "a")
    for _ in range(2):
        quota.spend(ACCOUNT, "a")
    assert left(quota) == 4


def test_what_a_dead_worker_has_reserved_is_free_again(quota: PullQuota, clock: StoppedClock) -> None:
    tell(quota, 2)
    reserve(quota, "a", "b")
    decision = reserve(quota, "c")
    assert (decision.granted, decision.undecided, decision.wait) == (False, True, RESERVED_SECONDS)
    clock.advance(RESERVED_SECONDS)
    assert left(quota) == 2


def test_if_too_little_remains_the_wait_lasts_until_the_window_ends(quota: PullQuota, clock: StoppedClock) -> None:
    tell(quota, 10)
    clock.advance(100)
    tell(quota, 9)  # the window starts
    clock.advance(50)
    tell(quota, 0)
    decision = reserve(quota, "a")
    assert (decision.granted, decision.undecided, decision.wait) == (False, False, WINDOW - 50)


def test_the_wait_for_a_window_that_rolls_is_a_twentieth_of_it(quota: PullQuota, clock: StoppedClock) -> None:
    tell(quota, 1)
    clock.advance(WINDOW)
    tell(quota, 1)
    assert reserve(quota, "a", "b").wait == WINDOW / 20


def test_a_new_window_is_seen_from_what_remains(quota: PullQuota, clock: StoppedClock) -> None:
    tell(quota, 0)
    clock.advance(WINDOW)
    tell(quota, 10)
    assert left(quota) == 10
    clock.advance(100)
    tell(quota, 0)
    assert reserve(quota, "a").wait == WINDOW


def test_if_a_head_states_no_limit_a_new_window_is_assumed(quota: PullQuota, clock: StoppedClock) -> None:
    tell(quota, 0)
    clock.advance(WINDOW - 1)
    assert not reserve(quota, "a", asked=True).granted
    clock.advance(1)
    assert not reserve(quota, "a").granted
    assert reserve(quota, "a", asked=True).granted


def test_a_refusal_because_of_the_limit_ends_the_window_for_all_workers(quota: PullQuota, clock: StoppedClock) -> None:
    assert quota.used_up(ACCOUNT) is None
    tell(quota, 9)
    clock.advance(100)
    assert quota.used_up(ACCOUNT) == WINDOW - 100
    assert left(quota) == 0


def test_more_than_the_limit_is_granted_if_the_whole_limit_remains(quota: PullQuota) -> None:
    many = [f"unit-{number}" for number in range(25)]
    tell(quota, 9)
    assert not reserve(quota, *many).granted
    tell(quota, 10)
    assert reserve(quota, *many).granted
    assert left(quota) == 0


def test_every_account_has_a_ledger_of_its_own(quota: PullQuota) -> None:
    tell(quota, 0)
    for other in [("docker.io", "gordon", "192-0-2-7"), ("docker.io", "anonymous", "elsewhere"), ("ghcr.io", "a", "-")]:
        assert quota.reserve(other, ["a"], asked=False).granted


def test_an_images_cost_is_remembered(quota: PullQuota) -> None:
    assert quota.cost("sha256:a") == 1
    quota.note_cost("sha256:a", 7)
    assert quota.cost("sha256:a") == 7


@pytest.mark.parametrize("window", [LONGEST_REST + 1, 999_999_999, 1e15])
def test_a_window_of_decades_is_waited_for_a_day_and_its_ledger_expires(
    quota: PullQuota, redis: Redis, window: float
) -> None:
    quota.tell(ACCOUNT, limit=10, window=window, remaining=0, elapsed=0, unit=None)
    decision = reserve(quota, "a")
    assert (decision.granted, decision.wait) == (False, LONGEST_REST)
    assert quota.used_up(ACCOUNT) == LONGEST_REST
    for key in (keys.quota("ledger", *ACCOUNT), keys.quota("limited", ACCOUNT[0])):
        assert 0 < redis.call("TTL", key) <= 2 * LONGEST_REST


def test_a_ledger_that_an_older_release_filled_with_decades_heals(
    quota: PullQuota, redis: Redis, clock: StoppedClock
) -> None:
    tell(quota, 0)
    poisoned, century = keys.quota("ledger", *ACCOUNT), 100 * 365 * 86400
    redis.call("HSET", poisoned, "window", century * 1000)
    for key in (poisoned, keys.quota("limited", "docker.io")):
        redis.call("EXPIRE", key, century)
    assert quota.is_limited("docker.io")
    assert reserve(quota, "a").wait <= LONGEST_REST
    for key in (poisoned, keys.quota("limited", "docker.io")):
        assert redis.call("TTL", key) <= 2 * LONGEST_REST
    clock.advance(LONGEST_REST + 1)
    assert reserve(quota, "a", asked=True).granted
    assert not quota.is_limited("quay.io")
