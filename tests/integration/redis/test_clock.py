"""The clock of Redis after somebody has set it: it never goes back and never stops.

A test cannot set the clock of the machine. So it leaves in Redis what a jump leaves there.
"""

from __future__ import annotations

import pytest

from mirror.queue import NORMAL
from mirror.records.processes import LiveProcesses
from mirror.records.task import WaitingFor
from mirror.redis import keys
from mirror.redis.client import Redis
from tests.e2e.processes import eventually
from tests.integration.records.submitted import claimed, submitted
from tests.support.records import Records

SECOND = 1000
HOUR = 3600 * SECOND
YEAR = 365 * 24 * HOUR


def wall(redis: Redis) -> int:
    """The wall clock of Redis in microseconds."""
    seconds, micros = redis.call("TIME")
    return int(seconds) * 1_000_000 + int(micros)


def jump(redis: Redis, ms: int) -> int:
    """Leave what a wall clock leaves that was set ahead and back. Return the latest time while it was ahead."""
    latest = wall(redis) // 1000 + ms
    redis.call("SET", keys.CLOCK, latest)
    return latest


def line(redis: Redis) -> tuple[int, int]:
    """The time and the wall clock in microseconds where the clock began to run slower."""
    time, micros, speed = redis.call("GET", keys.CLOCK_SLOWED).split(" ")
    assert speed == "0.9"
    return int(time), int(micros)


def let_pass(redis: Redis, ms: int) -> None:
    """Let the wall clock go on by *ms*, seen from the line on which the clock runs."""
    redis.now()
    time, micros = line(redis)
    redis.call("SET", keys.CLOCK_SLOWED, f"{time} {micros - ms * 1000} 0.9")


def assert_slowed(redis: Redis, latest: int) -> None:
    """Assert that the clock is exactly on a line that begins at *latest*."""
    redis.now()
    time, micros = line(redis)
    assert time == latest
    before = wall(redis)
    now = redis.now()
    after = wall(redis)
    assert latest + (before - micros) * 9 // 10_000 <= now <= latest + (after - micros) * 9 // 10_000


def test_after_a_jump_of_a_year_time_goes_on_a_tenth_slower(redis: Redis) -> None:
    latest = jump(redis, YEAR)
    assert redis.now() == latest
    assert_slowed(redis, latest)
    let_pass(redis, 10 * HOUR)
    assert redis.now() >= latest + 9 * HOUR
    assert_slowed(redis, latest)


def test_time_never_goes_back_and_calls_within_a_millisecond_lose_nothing_of_it(redis: Redis) -> None:
    latest = jump(redis, YEAR)
    times = [redis.now() for _ in range(1000)]
    assert times == sorted(times)
    assert times[0] == latest < times[-1]
    assert_slowed(redis, latest)


def test_the_release_before_reads_the_latest_time_as_a_number(redis: Redis) -> None:
    jump(redis, YEAR)
    let_pass(redis, 12_345)
    assert redis.now() == int(redis.call("GET", keys.CLOCK))


def test_a_small_step_back_heals(redis: Redis) -> None:
    jump(redis, 20)
    eventually(lambda: redis.now() <= wall(redis) // 1000, what="the wall clock has caught up")
    before = wall(redis)
    now = redis.now()
    assert before // 1000 <= now <= wall(redis) // 1000
    assert redis.call("GET", keys.CLOCK) == str(now)


@pytest.mark.parametrize(
    ("began", "ahead"),
    [
        pytest.param(HOUR, SECOND, id="it healed within the hour, and the wall clock was set back by a second since"),
        pytest.param(SECOND, HOUR, id="it healed, and the wall clock was set back to shortly after that line began"),
        pytest.param(-HOUR, SECOND, id="the wall clock was set back to before that line began"),
    ],
)
def test_a_line_of_an_earlier_step_is_not_continued(redis: Redis, began: int, ahead: int) -> None:
    micros = wall(redis) - began * 1000
    redis.call("SET", keys.CLOCK_SLOWED, f"{micros // 1000 + ahead} {micros} 0.9")
    latest = jump(redis, YEAR)
    assert redis.now() == latest
    assert_slowed(redis, latest)


def test_readers_see_the_same_time_and_write_nothing(redis: Redis) -> None:
    latest = jump(redis, YEAR)
    assert redis.read_now() == latest
    assert redis.call("EXISTS", keys.CLOCK_SLOWED) == 0
    let_pass(redis, 10 * HOUR)
    assert redis.read_now() >= latest + 9 * HOUR
    assert redis.call("GET", keys.CLOCK) == str(latest)


def test_leases_expire_and_parked_tasks_become_due_after_a_jump(redis: Redis) -> None:
    jump(redis, YEAR)
    records = Records.on(redis)
    job, [lost, parked] = submitted(records, 2)
    claimed(records, lost)
    reason = WaitingFor("rate_limited", "2026-01-01T00:00:00+00:00", "docker.io")
    assert records.claims.release(claimed(records, parked), wait=60, waiting_for=reason)
    assert (records.recovery.expired(), records.recovery.due()) == ([], [])
    let_pass(redis, 70 * SECOND)
    assert records.recovery.expired() == [lost.id]
    assert records.recovery.due() == [parked.id]
    assert records.recovery.unpark(parked.id) == [(parked.id, 1, NORMAL)]
    assert records.jobs.job(job.id).state == "running"


def test_a_process_that_died_after_a_jump_does_not_count_as_alive(redis: Redis) -> None:
    jump(redis, YEAR)
    beats = LiveProcesses(redis)
    beats.beat("worker", "idle", name="host:1")
    [beat] = beats.of("worker")
    assert beat.is_alive
    let_pass(redis, 60 * SECOND)
    [beat] = beats.of("worker")
    assert not beat.is_alive


def test_the_uptime_of_a_redis_that_started_while_the_clock_was_ahead_is_not_negative(
    redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis, "call", lambda *_: {"uptime_in_seconds": "-31536000"})
    assert redis.uptime() == 31_536_000
