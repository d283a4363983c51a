from __future__ import annotations

from mirror.records.processes import ALIVE_SECONDS, LiveProcesses, this_process
from mirror.redis import keys
from mirror.redis.client import Redis


def written(redis: Redis, name: str, seconds_ago: float) -> None:
    redis.call("HSET", keys.heartbeats("worker"), name, f"{redis.now() - int(seconds_ago * 1000)} idle")


def test_a_process_with_a_recent_heartbeat_is_alive_and_one_without_is_not(redis: Redis) -> None:
    beats = LiveProcesses(redis)
    written(redis, "host:1", ALIVE_SECONDS + 1)
    beats.beat("worker", "copying", name="host:2")
    young, old = beats.of("worker")
    assert (young.name, young.state, young.is_alive) == ("host:2", "copying", True)
    assert (old.name, old.is_alive) == ("host:1", False)
    assert ALIVE_SECONDS < old.age < ALIVE_SECONDS + 60
    assert beats.of("scheduler") == []


def test_a_process_that_ends_is_gone_at_once(redis: Redis) -> None:
    beats = LiveProcesses(redis)
    beats.beat("scheduler", "leader")
    assert [beat.name for beat in beats.of("scheduler")] == [this_process()]
    beats.leave("scheduler")
    assert beats.of("scheduler") == []


def test_dead_processes_are_removed_after_ten_minutes(redis: Redis) -> None:
    beats = LiveProcesses(redis)
    written(redis, "host:1", 601)
    written(redis, "host:2", 590)
    beats.beat("worker", "idle", name="host:3")
    assert [beat.name for beat in beats.of("worker")] == ["host:3", "host:2"]


def test_heartbeats_are_read_from_a_redis_that_refuses_writes(redis: Redis) -> None:
    beats = LiveProcesses(redis)
    beats.beat("worker", "idle", name="host:1")
    redis.call("CONFIG", "SET", "maxmemory", 1)
    try:
        assert [beat.name for beat in beats.of("worker")] == ["host:1"]
    finally:
        redis.call("CONFIG", "SET", "maxmemory", 0)
