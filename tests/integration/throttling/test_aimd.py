"""The shared limit: the shares never add up to more, while holders join, die or meet overload."""

from __future__ import annotations

import random

import pytest

from mirror.redis import keys
from mirror.redis.client import Redis
from mirror.throttling.aimd import HOLDER_SECONDS, MOST, MOST_OF_ONE, START, AimdLimits, Usage
from tests.support.stopped_clock import StoppedClock

HUB = ("docker.io", "blobs")
BUSY = Usage(may_use=1, saturated=True, succeeded=True)
TROUBLE = Usage(troubled=True)


@pytest.fixture
def clock(redis: Redis) -> StoppedClock:
    return StoppedClock(redis)


@pytest.fixture
def limits(redis: Redis) -> AimdLimits:
    return AimdLimits(redis, {"small.example": 3})


def granted(redis: Redis) -> list[int]:
    """Return what every holder may have in progress, or has."""
    return [int(share) for share in redis.call("HVALS", keys.limiter("shares", *HUB))]


@pytest.mark.usefixtures("clock")
def test_one_holder_alone_leaves_room_for_a_second_one(limits: AimdLimits) -> None:
    assert limits.report(*HUB, "a", Usage()).slots == MOST_OF_ONE


@pytest.mark.usefixtures("clock")
def test_holders_share_evenly_once_each_has_reported(limits: AimdLimits) -> None:
    for _ in range(3):
        shares = [limits.report(*HUB, holder, Usage()).slots for holder in "abc"]
    assert sorted(shares) == [10, 11, 11]


@pytest.mark.usefixtures("clock")
def test_a_holder_that_joins_gets_what_is_free_and_no_more(limits: AimdLimits) -> None:
    assert [limits.report(*HUB, holder, Usage()).slots for holder in "ab"] == [16, 16]
    assert limits.report(*HUB, "c", Usage()).slots == 0
    assert limits.report(*HUB, "a", Usage(may_use=14)).slots == 11
    assert limits.report(*HUB, "c", Usage()).slots == 2  # the first still has fourteen in progress
    assert limits.report(*HUB, "a", Usage(may_use=3)).slots == 11
    assert limits.report(*HUB, "b", Usage()).slots == 11
    assert limits.report(*HUB, "c", Usage()).slots == 10


@pytest.mark.usefixtures("clock")
def test_with_more_holders_than_slots_some_have_none(limits: AimdLimits) -> None:
    where = ("small.example", "blobs")
    for _ in range(2):
        shares = [limits.report(*where, holder, Usage()).slots for holder in "abcde"]
    assert sorted(shares) == [0, 0, 1, 1, 1]


@pytest.mark.parametrize("seed", range(5))
def test_the_shares_never_add_up_to_more_than_the_limit(
    limits: AimdLimits, redis: Redis, clock: StoppedClock, seed: int
) -> None:
    """Twenty holders join, leave, fall silent and meet overload. What exceeds a halved limit only shrinks."""
    chance = random.Random(seed)
    most = 0
    for _ in range(300):
        holder = f"holder-{chance.randrange(20)}"
        share = int(redis.call("HGET", keys.limiter("shares", *HUB), holder) or 0)
        before = sum(granted(redis))
        if chance.random() < 0.1:
            limits.leave(*HUB, holder)
        else:
            flags = {"saturated": 0.5, "succeeded": 0.8, "troubled": 0.02}
            happened = {name: chance.random() < likely for name, likely in flags.items()}
            limit = limits.report(*HUB, holder, Usage(chance.randint(0, share), **happened)).limit
            assert sum(granted(redis)) <= max(limit, before)
        most = max(most, sum(granted(redis)))
        clock.advance(chance.choice([0, 0, 0.3]))
    assert most >= START


def test_the_share_of_a_silent_holder_is_free_after_some_seconds(limits: AimdLimits, clock: StoppedClock) -> None:
    for holder in ("dead", "dead too"):
        limits.report(*HUB, holder, Usage(may_use=16))
    clock.advance(HOLDER_SECONDS - 1)
    assert limits.report(*HUB, "b", Usage()).slots == 0
    clock.advance(1)
    assert limits.report(*HUB, "b", Usage()).slots == MOST_OF_ONE


@pytest.mark.usefixtures("clock")
def test_a_share_that_is_given_back_is_free_at_once(limits: AimdLimits) -> None:
    limits.report(*HUB, "a", Usage())
    limits.leave(*HUB, "a")
    assert limits.report(*HUB, "b", Usage()).slots == MOST_OF_ONE


def test_overload_halves_the_limit_once_a_second_for_all_holders_together(
    limits: AimdLimits, clock: StoppedClock
) -> None:
    assert [limits.report(*HUB, holder, TROUBLE).limit for holder in "abc"] == [16, 16, 16]
    clock.advance(1)
    assert limits.report(*HUB, "a", TROUBLE).limit == 8


def test_the_limit_never_falls_below_one(limits: AimdLimits, clock: StoppedClock) -> None:
    for _ in range(10):
        share = limits.report(*HUB, "a", TROUBLE)
        clock.advance(1)
    assert (share.limit, share.slots) == (1, 1)


def test_the_limit_grows_by_one_a_second_while_it_is_used_up(limits: AimdLimits, clock: StoppedClock) -> None:
    for _ in range(3):
        shares = [limits.report(*HUB, holder, Usage()).slots for holder in "abc"]
    assert sum(shares) == START
    for second in (1, 2, 3):
        clock.advance(1)
        assert [limits.report(*HUB, holder, BUSY).limit for holder in "abc"] == [START + second] * 3


def test_a_holder_with_the_largest_share_is_no_reason_to_grow(limits: AimdLimits, clock: StoppedClock) -> None:
    for _ in range(3):
        clock.advance(1)
        assert limits.report(*HUB, "a", BUSY).limit == START


@pytest.mark.parametrize("usage", [Usage(succeeded=True), Usage(saturated=True), Usage(may_use=16)])
def test_the_limit_does_not_grow_without_need_or_without_success(
    limits: AimdLimits, clock: StoppedClock, usage: Usage
) -> None:
    for _ in range(3):
        assert limits.report(*HUB, "a", usage).limit == START
        clock.advance(1)


def test_the_limit_grows_to_the_highest_and_no_further(limits: AimdLimits, clock: StoppedClock) -> None:
    for _ in range(MOST):
        clock.advance(1)
        shares = [limits.report(*HUB, holder, BUSY) for holder in "abcde"]
    assert shares[-1].limit == MOST


def test_the_limit_of_a_setting_is_kept_from_the_first_request_on(limits: AimdLimits, clock: StoppedClock) -> None:
    for _ in range(5):
        assert limits.report("small.example", "blobs", "a", BUSY).slots <= 3
        clock.advance(1)


@pytest.mark.usefixtures("clock")
def test_a_registrys_manifests_and_blobs_have_limits_of_their_own(limits: AimdLimits) -> None:
    limits.report("docker.io", "blobs", "a", TROUBLE)
    assert limits.report("docker.io", "manifests", "a", Usage()).limit == START


def test_seconds_with_overload_are_counted_until_ten_seconds_without(limits: AimdLimits, clock: StoppedClock) -> None:
    streaks = []
    for seconds in (1, 1, 1, 10):
        streaks.append(limits.report(*HUB, "a", TROUBLE).streak)
        clock.advance(seconds)
    assert streaks == [1, 2, 3, 4]
    assert limits.report(*HUB, "a", Usage(succeeded=True)).streak == 0
