from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from mirror.locks.lease import Lease, Leases
from mirror.redis.client import Redis

KEY = "mirror:lease:test"


def test_a_lease_has_one_holder_however_many_ask_at_once(redis: Redis) -> None:
    leases = Leases(redis)
    with ThreadPoolExecutor(8) as pool:
        taken = list(pool.map(lambda _: leases.take(KEY, 30), range(32)))
    assert sum(lease is not None for lease in taken) == 1


def test_a_lease_that_was_ended_can_be_taken_again(redis: Redis) -> None:
    leases = Leases(redis)
    first = leases.take(KEY, 30)
    assert first is not None
    assert leases.take(KEY, 30) is None
    leases.end(first)
    assert leases.take(KEY, 30) is not None


def test_only_its_holder_renews_or_ends_a_lease(redis: Redis) -> None:
    leases = Leases(redis)
    mine = leases.take(KEY, 30)
    assert mine is not None
    stranger = Lease(KEY, "another holder", 30)
    assert not leases.renew(stranger)
    leases.end(stranger)
    assert leases.renew(mine)
    assert 29_000 < redis.call("PTTL", KEY) <= 30_000


def test_the_late_holder_of_an_expired_lease_neither_renews_nor_ends_it(redis: Redis) -> None:
    leases = Leases(redis)
    late = leases.take(KEY, 30)
    assert late is not None
    redis.call("DEL", KEY)  # what its expiry does
    assert not leases.renew(late)
    current = leases.take(KEY, 30)
    assert current is not None
    leases.end(late)
    assert leases.renew(current)


def test_a_second_take_with_the_same_token_finds_the_lease_taken(redis: Redis) -> None:
    """The reply to the first command may be lost, and then the client sends it again."""
    leases = Leases(redis)
    lease = leases.take(KEY, 30)
    assert lease is not None
    assert leases._take([KEY], [lease.token, 30_000]) == 1


def test_holding_ends_the_lease_and_gives_up_after_its_patience(redis: Redis) -> None:
    leases = Leases(redis)
    with leases.holding(KEY, 30, patience=0.1) as outer:
        assert outer is not None
        with leases.holding(KEY, 30, patience=0.05) as inner:
            assert inner is None
    assert leases.take(KEY, 30) is not None


def test_many_leases_are_taken_renewed_and_ended_together(redis: Redis) -> None:
    leases = Leases(redis)
    assert leases.take("lease:b", 30)
    taken = leases.take_all(["lease:a", "lease:b", "lease:c", "lease:a"], 30)
    assert [lease is not None for lease in taken] == [True, False, True, False]
    assert leases.take_all([], 30) == []
    held = [lease for lease in taken if lease]
    leases.end(held[1])
    assert leases.renew_all(held) == [True, False]
    leases.end(*held)
    assert [redis.call("EXISTS", f"lease:{name}") for name in "abc"] == [0, 1, 0]


def test_a_lease_of_before_the_clock_was_set_back_is_cut_short(redis: Redis) -> None:
    """Redis keeps the wall time at which a key expires. Else nobody could take this lease for a year."""
    redis.call("SET", KEY, "the token of a dead holder", "EX", 365 * 86_400)
    leases = Leases(redis)
    assert leases.take(KEY, 30) is None
    assert 0 < redis.call("TTL", KEY) <= 30


def test_who_waits_for_a_lease_does_not_change_its_length(redis: Redis) -> None:
    leases = Leases(redis)
    assert leases.take(KEY, 60)
    assert leases.take(KEY, 15) is None
    assert redis.call("TTL", KEY) > 15
