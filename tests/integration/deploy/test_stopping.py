"""How `make run` stops or is killed, and starts again with all its data."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.integration.deploy.launch import (
    Launch,
    children,
    command_line,
    env_file,
    eventually,
    interrupt,
    is_alive,
    redis_of,
    sourced,
    valkey_answers,
)


def test_a_killed_process_is_started_again(tmp_path: Path) -> None:
    with Launch(tmp_path) as launch:
        first = launch.ready().journal("started", "worker")[0]["pid"]
        valkey = next(pid for pid in children(launch.process.pid) if "valkey-server" in command_line(pid))
        os.kill(first, signal.SIGKILL)
        os.kill(valkey, signal.SIGKILL)
        eventually(lambda: len(launch.journal("started", "worker")) == 2, "no new worker", launch.output)
        eventually(lambda: valkey_answers(launch), "no new Valkey", launch.output)


@pytest.mark.parametrize("how", [lambda process: process.terminate(), interrupt], ids=["SIGTERM", "Ctrl-C"])
def test_workers_stop_before_the_api_and_the_servers_last(tmp_path: Path, how: object) -> None:
    with Launch(tmp_path) as launch:
        launch.ready()
        started = [launch.process.pid, *children(launch.process.pid)]
        assert callable(how)
        how(launch.process)
        assert launch.status() == 0
        assert not [pid for pid in started if is_alive(pid)]
        for name, still_accepting in {"worker": ["api", "s3", "redis"], "service": ["api", "s3", "redis"]}.items():
            assert [entry["accepting"] for entry in launch.journal("stopping", name)] == [still_accepting]
        order = [entry["name"] for entry in launch.journal("stopping")]
        assert set(order[:2]) == {"worker", "scheduler"}
        assert order[2:] == ["service"]


def test_a_process_that_ignores_sigterm_is_killed_and_the_rest_stops_in_order(tmp_path: Path) -> None:
    with Launch(tmp_path, FAKES="stubborn") as launch:
        launch.ready()
        eventually(lambda: launch.journal("started", "stubborn"), "it does not start", launch.output)
        launch.process.terminate()
        assert launch.status() == 0
        assert not is_alive(launch.journal("started", "stubborn")[0]["pid"])
        assert launch.journal("stopping", "service")[0]["accepting"] == ["api", "s3", "redis"]


def test_a_killed_supervisor_leaves_no_process_and_a_new_start_finds_all_data(tmp_path: Path) -> None:
    with Launch(tmp_path) as launch:
        started = children(launch.ready().process.pid)
        before = env_file(launch)
        with redis_of(launch) as client:
            client.set("job", "accepted")
        launch.kill()
        launch.start()  # at once, so it waits for the orphans of the killed one
        eventually(lambda: not [pid for pid in started if is_alive(pid)], "processes are left")
        eventually(lambda: len(launch.journal("started", "service")) == 2, "it does not start again", launch.output)
        eventually(lambda: valkey_answers(launch), "no Valkey", launch.output)
        with redis_of(launch) as client:
            assert client.get("job") == b"accepted"
        assert env_file(launch) == before


def test_a_killed_supervisors_programs_end_while_redis_and_s3_still_answer(tmp_path: Path) -> None:
    """Also one that ignores SIGTERM, and its forks.

    They end although no new start cleans up.
    """
    with Launch(tmp_path, FAKES="stubborn") as launch:
        launch.ready()
        eventually(lambda: launch.journal("started", "stubborn"), "it does not start", launch.output)
        started = children(launch.process.pid)
        forked = [pid for parent in started for pid in children(parent)]
        launch.kill()
        eventually(lambda: not [pid for pid in [*started, *forked] if is_alive(pid)], "processes are left")
        for name in ("worker", "scheduler", "service"):
            (entry,) = launch.journal("stopping", name)
            assert {"s3", "redis"} <= set(entry["accepting"])
        assert not launch.journal("stopping", "stubborn")


def test_processes_that_the_guard_could_not_end_are_ended_and_named_by_the_next_start(tmp_path: Path) -> None:
    with Launch(tmp_path) as launch:
        started = children(launch.ready().process.pid)
        guard = next(pid for pid in started if "deploy.local.orphans" in command_line(pid))
        valkey = next(pid for pid in started if "valkey-server" in command_line(pid))
        with redis_of(launch) as client:
            client.set("job", "accepted")
        launch.process.send_signal(signal.SIGSTOP)  # else it would start another guard
        os.kill(guard, signal.SIGKILL)
        launch.kill()
        eventually(lambda: not [pid for pid in launch.pids() if is_alive(pid)], "programs are left")
        assert is_alive(valkey)
        launch.start()
        eventually(lambda: len(launch.journal("started", "service")) == 2, "it does not start again", launch.output)
        assert not [pid for pid in started if is_alive(pid)]
        said = [line for line in launch.lines() if line["event"].startswith("Ending the processes of an earlier run")]
        assert [f"valkey-server ({valkey})" in line["event"] for line in said] == [True]
        eventually(lambda: valkey_answers(launch), "no Valkey", launch.output)
        with redis_of(launch) as client:
            assert client.get("job") == b"accepted"


def test_the_same_mirror_starts_again_in_a_shell_that_sourced_its_own_env_file(tmp_path: Path) -> None:
    with Launch(tmp_path) as first:
        first.ready()
        variables = sourced(first)
        with redis_of(first) as client:
            client.set("job", "accepted")
    with Launch(tmp_path, data=None, **variables) as again:
        eventually(lambda: len(again.journal("started", "service")) == 2, "it does not start", again.output)
        eventually(lambda: valkey_answers(again), "no Valkey", again.output)
        with redis_of(again) as client:
            assert client.get("job") == b"accepted"
        programs = [command_line(pid) for pid in children(again.process.pid)]
        assert len([line for line in programs if "valkey-server" in line or "rclone" in line]) == 2
