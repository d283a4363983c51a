from __future__ import annotations

import threading

import pytest

from mirror.background import fault_counts
from mirror.locks.lease import Leases
from mirror.locks.lease_renewer import LeaseRenewer
from mirror.redis import keys
from mirror.redis.client import Redis
from tests.e2e.processes import eventually

KEY = keys.periodic_lease("kept")
SECONDS = 1.0


@pytest.fixture
def leases(redis: Redis) -> Leases:
    return Leases(redis)


def not_lost() -> None:
    pytest.fail("the lease was lost")


def test_a_renewed_lease_outlives_its_length(leases: Leases, redis: Redis) -> None:
    with LeaseRenewer(leases, SECONDS) as renewer:
        assert renewer.take(KEY, not_lost) is not None
        begun = redis.now()
        eventually(lambda: redis.now() - begun > 2 * SECONDS * 1000, what="twice its length has passed")
        assert redis.call("EXISTS", KEY)
        assert renewer.take(KEY, not_lost) is None
    assert not redis.call("EXISTS", KEY)


def test_a_lease_that_is_given_back_is_renewed_no_longer(leases: Leases, redis: Redis) -> None:
    with LeaseRenewer(leases, SECONDS) as renewer:
        lease = renewer.take(KEY, not_lost)
        assert lease is not None
        renewer.give_back(lease)
        assert not redis.call("EXISTS", KEY)


def test_a_lease_that_expired_in_an_outage_of_redis_is_taken_again(leases: Leases, redis: Redis) -> None:
    with LeaseRenewer(leases, SECONDS) as renewer:
        renewer.take(KEY, not_lost)
        redis.call("DEL", KEY)
        eventually(lambda: redis.call("EXISTS", KEY), what="the renewer took it again")


def test_a_lease_that_another_holder_has_is_lost_and_left_alone(leases: Leases, redis: Redis) -> None:
    lost = threading.Event()
    with LeaseRenewer(leases, SECONDS) as renewer:
        renewer.take(KEY, lost.set)
        redis.call("SET", KEY, "another holder")
        assert lost.wait(10)
    assert redis.call("GET", KEY) == "another holder"


def test_if_one_lease_cannot_be_renewed_the_others_still_are(leases: Leases, redis: Redis) -> None:
    other, lost = keys.periodic_lease("other"), threading.Event()
    before = fault_counts().get("renewing a lease", 0)
    with LeaseRenewer(leases, SECONDS) as renewer:
        renewer.take(KEY, lost.set)
        renewer.take(other, not_lost)
        redis.call("DEL", KEY)
        redis.call("RPUSH", KEY, "not a lease")
        assert lost.wait(10)
        begun = redis.now()
        eventually(lambda: redis.now() - begun > 2 * SECONDS * 1000, what="twice its length has passed")
        assert redis.call("EXISTS", other)
    assert not redis.call("EXISTS", other)
    assert fault_counts()["renewing a lease"] == before + 1


def test_a_callback_that_raises_for_a_lost_lease_harms_no_other_lease(leases: Leases, redis: Redis) -> None:
    def fail() -> None:
        told.set()
        raise KeyError("a fault of the work under the lease")

    other, told, also = keys.periodic_lease("other"), threading.Event(), threading.Event()
    with LeaseRenewer(leases, SECONDS) as renewer:
        renewer.take(KEY, fail)
        renewer.take(other, also.set)
        redis.call("SET", KEY, "another holder")
        assert told.wait(10)
        redis.call("SET", other, "another holder")
        assert also.wait(10)


def test_if_one_lease_cannot_be_given_back_the_others_still_are(leases: Leases, redis: Redis) -> None:
    other = keys.periodic_lease("other")
    with LeaseRenewer(leases, 60) as renewer:
        renewer.take(KEY, not_lost)
        renewer.take(other, not_lost)
        redis.call("DEL", KEY)
        redis.call("RPUSH", KEY, "not a lease")
    assert not redis.call("EXISTS", other)
