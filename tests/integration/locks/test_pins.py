from __future__ import annotations

import pytest

from mirror.errors import BlobBeingDeleted
from mirror.locks.pins import HOLDER_SECONDS, Pins
from mirror.oci.digest import Digest
from mirror.redis import keys
from mirror.redis.client import Redis

BASE, TOP = Digest.of(b"base"), Digest.of(b"top")


def test_what_a_living_holder_has_pinned_is_not_deleted(redis: Redis) -> None:
    pins = Pins(redis)
    pins.pin("task-1", [BASE, TOP])
    assert not pins.begin_delete(BASE, 30)
    pins.release("task-1")
    assert pins.begin_delete(BASE, 30)


def test_one_of_two_holders_is_enough_to_keep_a_blob(redis: Redis) -> None:
    pins = Pins(redis)
    pins.pin("task-1", [BASE])
    pins.pin("task-2", [BASE])
    pins.release("task-1")
    assert not pins.begin_delete(BASE, 30)


def test_if_one_blob_is_being_deleted_no_blob_of_the_call_is_pinned(redis: Redis) -> None:
    pins = Pins(redis)
    assert pins.begin_delete(BASE, 30)
    with pytest.raises(BlobBeingDeleted, match=str(BASE)):
        pins.pin("task-1", [TOP, BASE])
    assert pins.begin_delete(TOP, 30)


def test_after_the_deletion_the_digest_can_be_pinned_again(redis: Redis) -> None:
    pins = Pins(redis)
    pins.begin_delete(BASE, 30)
    pins.end_delete(BASE)
    pins.pin("task-1", [BASE])
    assert not pins.begin_delete(BASE, 30)


def test_the_right_to_delete_of_a_dead_collector_expires(redis: Redis) -> None:
    pins = Pins(redis)
    pins.begin_delete(BASE, 0)
    pins.pin("task-1", [BASE])


def test_the_pins_of_a_dead_holder_are_void_and_its_renewal_says_so(redis: Redis) -> None:
    pins = Pins(redis)
    pins.pin("task-1", [BASE])
    assert pins.renew("task-1")
    redis.call("DEL", keys.pin_holder("task-1"))  # what its expiry does
    assert not pins.renew("task-1")
    assert pins.begin_delete(BASE, 30)


def test_a_holder_that_died_before_the_clock_was_set_back_is_void_in_time(redis: Redis) -> None:
    pins = Pins(redis)
    pins.pin("task-1", [BASE])
    redis.call("EXPIRE", keys.pin_holder("task-1"), 365 * 86_400)  # Redis keeps the wall time at which a key expires
    assert not pins.begin_delete(BASE, 30)
    assert 0 < redis.call("TTL", keys.pin_holder("task-1")) <= HOLDER_SECONDS


def test_more_digests_than_one_script_takes_are_all_pinned(redis: Redis) -> None:
    pins = Pins(redis)
    many = [Digest.of(str(n).encode()) for n in range(1201)]
    pins.pin("task-1", many)
    assert not any(pins.begin_delete(digest, 30) for digest in (many[0], many[600], many[-1]))
