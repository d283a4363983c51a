"""Signs that the main loop of a worker or scheduler goes on, and when they are written."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from mirror.locks.lease import Leases
from mirror.records.processes import BEAT_SECONDS, LiveProcesses, this_process
from mirror.redis import keys
from mirror.redis.client import Redis
from worker import periodic
from worker.liveness import Liveness
from worker.periodic import STUCK_SECONDS, PeriodicTask, PeriodicTasks


class Clock:
    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def redis(redis_url: str) -> Iterator[Redis]:
    client = Redis.connect(redis_url, retries=0)
    yield client
    client.close()


def was_touched(file: Path) -> bool:
    """Whether the file was touched since this was last asked."""
    found = file.exists() and file.stat().st_mtime != 1
    if found:
        os.utime(file, (1, 1))
    return found


def test_a_heartbeat_is_written_every_few_seconds_and_at_once_when_the_state_changes(
    redis: Redis, tmp_path: Path
) -> None:
    clock, beats, file = Clock(), LiveProcesses(redis), tmp_path / "heartbeat"
    liveness = Liveness("worker", beats, file, now=clock)

    def written() -> list[str]:
        """The states in Redis, which are forgotten then."""
        states = [beat.state for beat in beats.of("worker")]
        redis.call("DEL", keys.heartbeats("worker"))
        return states

    liveness.beat("idle")
    assert (written(), was_touched(file)) == (["idle"], True)
    liveness.beat("idle")
    assert (written(), was_touched(file)) == ([], False)
    liveness.beat("copying")
    assert written() == ["copying"]
    clock.seconds += BEAT_SECONDS
    liveness.beat("copying")
    assert (written(), was_touched(file)) == (["copying"], True)
    clock.seconds += BEAT_SECONDS
    liveness.touch()
    assert (written(), was_touched(file)) == ([], True)
    liveness.beat("copying")
    assert [beat.name for beat in beats.of("worker")] == [this_process()]
    liveness.leave()
    assert written() == []


def test_another_thread_does_not_make_a_stuck_loop_look_alive(redis: Redis, tmp_path: Path) -> None:
    file = tmp_path / "heartbeat"
    liveness = Liveness("worker", LiveProcesses(redis), file)
    thread = threading.Thread(target=liveness.touch)
    thread.start()
    thread.join()
    assert not file.exists()


def test_a_heartbeat_file_that_cannot_be_written_is_an_error_in_the_log_once_and_ends_nothing(
    redis: Redis, tmp_path: Path
) -> None:
    clock = Clock()
    liveness = Liveness("worker", LiveProcesses(redis), tmp_path / "no-such-folder" / "heartbeat", now=clock)
    with capture_logs() as logged:
        for _ in range(3):
            liveness.touch()
            clock.seconds += 60
    assert [line["reason"] for line in logged] == ["No such file or directory"]


def test_a_redis_that_takes_no_heartbeat_ends_nothing(redis: Redis, tmp_path: Path) -> None:
    file = tmp_path / "heartbeat"
    redis.call("CONFIG", "SET", "maxmemory", 1)
    try:
        Liveness("worker", LiveProcesses(redis), file).beat("idle")
    finally:
        redis.call("CONFIG", "SET", "maxmemory", 0)
    assert file.exists()


def test_a_task_is_stuck_only_when_it_is_silent_for_longer_than_it_may_rest(
    redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr(periodic, "monotonic", clock)
    tasks = [PeriodicTask("short", 2.0, lambda _: None), PeriodicTask("long", 900.0, lambda _: None)]
    found = PeriodicTasks(tasks, Leases(redis))

    def note(name: str, rest: float = 0.0) -> None:
        thread = threading.Thread(target=lambda: found.note_progress(rest=rest), name=name)
        thread.start()
        thread.join()

    note("short", 2.0)
    note("long", 900.0)
    note("a thread of Redis' client")
    clock.seconds += STUCK_SECONDS + 1
    assert found.stuck() == []
    clock.seconds += 2
    assert found.stuck() == ["short"]
    note("short")
    assert found.stuck() == []
    clock.seconds += 900
    assert found.stuck() == ["short", "long"]
