from __future__ import annotations

import threading

import pytest

from mirror.background import fault_counts
from mirror.locks.lease import Leases
from mirror.locks.lease_renewer import LeaseRenewer
from mirror.redis import keys
from mirror.redis.client import Redis
from tests.e2e.processes import eventually

KEY = keys.lease("kept")
SECONDS = 1.0


@pytest.fixture
def leases(redis: Redis) -> Leases:
    return Leases(redis)


def not_lost() -> None:
    pytest.fail("the lease was lost")


def test_a_kept_lease_outlives_its_length(leases: Leases, redis: Redis) -> None:
    with LeaseRenewer(leases, SECONDS) as keeper:
        assert keeper.take(KEY, not_lost) is not None
        begun = redis.now()
        eventually(lambda: redis.now() - begun > 2 * SECONDS * 1000, what="twice its length has passed")
        assert leases.is_held(KEY)
        assert keeper.take(KEY, not_lost) is None
    assert not leases.is_held(KEY)


def test_what_is_given_back_is_kept_no_longer(leases: Leases) -> None:
    with LeaseRenewer(leases, SECONDS) as keeper:
        lease = keeper.take(KEY, not_lost)
        assert lease is not None
        keeper.give_back(lease)
        assert not leases.is_held(KEY)


def test_a_lease_that_ended_in_a_silence_of_redis_is_taken_again(leases: Leases, redis: Redis) -> None:
    with LeaseRenewer(leases, SECONDS) as keeper:
        keeper.take(KEY, not_lost)
        redis.call("DEL", KEY)
        eventually(lambda: leases.is_held(KEY), what="the keeper took it again")


def test_a_lease_that_somebody_else_has_is_lost_and_left_to_them(leases: Leases, redis: Redis) -> None:
    lost = threading.Event()
    with LeaseRenewer(leases, SECONDS) as keeper:
        keeper.take(KEY, lost.set)
        redis.call("SET", KEY, "somebody else")
        assert lost.wait(10)
    assert redis.call("GET", KEY) == "somebody else"


def test_a_lease_that_cannot_be_renewed_is_lost_alone(leases: Leases, redis: Redis) -> None:
    other, lost = keys.lease("other"), threading.Event()
    before = fault_counts().get("renewing a lease", 0)
    with LeaseRenewer(leases, SECONDS) as keeper:
        keeper.take(KEY, lost.set)
        keeper.take(other, not_lost)
        redis.call("DEL", KEY)
        redis.call("RPUSH", KEY, "not a lease")
        assert lost.wait(10)
        begun = redis.now()
        eventually(lambda: redis.now() - begun > 2 * SECONDS * 1000, what="twice its length has passed")
        assert leases.is_held(other)
    assert not leases.is_held(other)
    assert fault_counts()["renewing a lease"] == before + 1


def test_who_raises_when_told_of_a_lost_lease_loses_no_other(leases: Leases, redis: Redis) -> None:
    def fail() -> None:
        told.set()
        raise KeyError("a fault of whoever worked under it")

    other, told, also = keys.lease("other"), threading.Event(), threading.Event()
    with LeaseRenewer(leases, SECONDS) as keeper:
        keeper.take(KEY, fail)
        keeper.take(other, also.set)
        redis.call("SET", KEY, "somebody else")
        assert told.wait(10)
        redis.call("SET", other, "somebody else")
        assert also.wait(10)


def test_leases_are_given_back_behind_one_that_cannot_be(leases: Leases, redis: Redis) -> None:
    other = keys.lease("other")
    with LeaseRenewer(leases, 60) as keeper:
        keeper.take(KEY, not_lost)
        keeper.take(other, not_lost)
        redis.call("DEL", KEY)
        redis.call("RPUSH", KEY, "not a lease")
    assert not leases.is_held(other)
