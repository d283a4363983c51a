from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from mirror.errors import RedisUnavailable
from mirror.redis.client import Redis
from mirror.redis.scripts import Run
from tests.support.servers import ValkeyServer


def test_a_redis_that_is_away_has_one_error_without_its_password(tmp_path: Path) -> None:
    with ValkeyServer(tmp_path) as server:
        url = server.url
    redis = Redis.connect(url, retries=0)
    for ask in (lambda: redis.call("PING"), redis.now, lambda: redis.calls([["PING"]])):
        with pytest.raises(RedisUnavailable) as caught:
            ask()
        assert caught.value.__cause__ is None
        assert url.split(":")[2].split("@")[0] not in str(caught.value)
    redis.close()


def test_a_patient_client_waits_out_a_restart_and_loads_its_scripts_again(tmp_path: Path) -> None:
    with ValkeyServer(tmp_path, append_only=True) as server:
        redis = Redis.connect(server.url, retries=100)
        script = redis.script("return redis.call('INCR', KEYS[1])")
        assert script(["mirror:count"]) == 1
        server.kill()
        server.restart()
        assert script(["mirror:count"]) == 2
        redis.close()


def test_prepared_scripts_are_loaded_before_their_first_run(redis: Redis) -> None:
    source = "return 'prepared'"
    redis.script(source)
    redis.prepare()
    sha1 = hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()
    assert redis.call("EVALSHA", sha1, 0) == "prepared"


def test_a_script_that_is_registered_again_is_loaded_once(redis: Redis) -> None:
    def loads() -> int:
        return int(redis.call("INFO", "commandstats").get("cmdstat_script|load", {"calls": 0})["calls"])

    again = Redis(redis.client)
    for _ in range(3):
        again.script("return 'again'")
    before = loads()
    again.prepare()
    assert loads() - before == 6  # this script and two of the clock, each for one run and for many


def test_a_redis_that_may_forget_jobs_is_warned_about(redis: Redis) -> None:
    assert redis.warnings() == ["neither appendonly nor save is configured: a restart of Redis loses the jobs"]
    redis.call("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    try:
        assert len(redis.warnings()) == 2
    finally:
        redis.call("CONFIG", "SET", "maxmemory-policy", "noeviction")


def test_many_runs_return_what_each_would_return_alone(redis: Redis) -> None:
    script = redis.script("""
        if ARGV[1] == 'nothing' then return nil end
        if ARGV[1] == 'false' then return false end
        local function listed(key) return {key, ARGV[2], #KEYS, #ARGV} end
        return listed(KEYS[1])""")
    runs: list[Run] = [(["a", "b"], ["x", "y"]), ([], ["nothing"]), ([], ["false"]), (["c"], ["x", "", 7])]
    assert script.many(runs) == [["a", "y", 2, 2], None, None, ["c", "", 1, 3]]
    assert script.many(runs) == [script(*run) for run in runs]
    count = redis.script("return redis.call('INCR', KEYS[1])")
    assert count.many([(["mirror:n"], [])] * 1000) == list(range(1, 1001))


def test_many_runs_share_a_round_trip_also_after_a_restart(tmp_path: Path) -> None:
    with ValkeyServer(tmp_path, append_only=True) as server:
        redis = Redis.connect(server.url, retries=100)
        script = redis.script("return redis.call('INCRBY', KEYS[1], ARGV[1])")
        assert script.many([]) == []
        assert script.many([(["mirror:a"], [1]), (["mirror:b"], [10]), (["mirror:a"], [2])]) == [1, 10, 3]
        server.kill()
        server.restart()
        assert script.many([(["mirror:a"], [1]), (["mirror:b"], [1])]) == [4, 11]
        server.kill()
        brisk = Redis.connect(server.url, retries=0)
        with pytest.raises(RedisUnavailable):
            brisk.script("return 1").many([([], [])])
        redis.close()
