"""Workers and schedulers whose Redis refuses commands, and their health check."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pytest

from mirror.records.processes import LiveProcesses
from tests.e2e.fleet import Fleet
from tests.e2e.processes import ROOT, Process, eventually, is_alive
from tests.e2e.sources import held_layer
from tests.support import images
from tests.support.servers.process import free_port

OOM = (("CONFIG", "SET", "maxmemory", "1"), ("CONFIG", "SET", "maxmemory", "0"))
REFUSALS = {
    "OOM": (*OOM, "its memory is full (maxmemory)"),
    "READONLY": (("REPLICAOF", "127.0.0.1", "1"), ("REPLICAOF", "NO", "ONE"), "it is a read-only replica"),
    "NOREPLICAS": (
        ("CONFIG", "SET", "min-replicas-to-write", "1"),
        ("CONFIG", "SET", "min-replicas-to-write", "0"),
        "it has fewer replicas than it must have",
    ),
}


def refusals(fleet: Fleet, code: str) -> int:
    """Return how often Redis has returned that error."""
    found = fleet.redis.call("INFO", "errorstats").get(f"errorstat_{code}", {})
    return int(found.get("count", 0))


def test_a_running_copy_survives_every_kind_of_refusal_without_another_attempt(fleet: Fleet) -> None:
    layer = held_layer(fleet.registry, "big")
    with fleet.scheduler() as scheduler, fleet.worker() as worker:
        job = fleet.submit("team/app:1")
        assert layer.reached.wait(30)
        [work_horse] = worker.children()
        for code, (break_it, repair, reason) in REFUSALS.items():
            before = refusals(fleet, code)
            fleet.redis.call(*break_it)
            eventually(partial(_were_refused, [worker, scheduler], reason), what=f"both got {code}")
            eventually(partial(_has_refused, fleet, code, before + 12), what=f"both got {code} again and again")
            fleet.redis.call(*repair)
        fleet.redis.call("SCRIPT", "FLUSH")
        layer.opened.set()
        ended = fleet.ended(job, within=60)
        assert (ended.state, ended.attempt, fleet.store.tasks(job.id, 1)[0].losses) == ("succeeded", 1, 0)
        fleet.redis.call("SCRIPT", "FLUSH")
        fleet.registry.put(images.image(images.layer("next")), "team/next", "1")
        assert fleet.ended(fleet.submit("team/next:1"), within=30).state == "succeeded"
        assert worker.child.poll() is None
        assert scheduler.child.poll() is None
        eventually(lambda: not is_alive(work_horse), what="the work horse ended after its task")
    for process in (worker, scheduler):
        assert "Traceback" not in process.log.read_text()


def _were_refused(processes: Sequence[Process], reason: str) -> bool:
    return all(f"refuses writes: {reason}" in process.log.read_text() for process in processes)


def _has_refused(fleet: Fleet, code: str, count: int) -> bool:
    return refusals(fleet, code) >= count


def test_an_idle_worker_waits_for_a_full_redis_and_then_does_what_is_queued(fleet: Fleet) -> None:
    fleet.registry.put(images.image(images.layer("next")), "team/next", "1")
    beats = LiveProcesses(fleet.redis)
    with fleet.worker() as worker:
        eventually(lambda: beats.of("worker"), what="the worker is alive")
        break_it, repair = OOM
        fleet.redis.call(*break_it)
        eventually(lambda: refusals(fleet, "OOM") >= 5, what="the worker was refused")
        fleet.redis.call(*repair)
        ended = fleet.ended(fleet.submit("team/next:1"), within=30)
        assert (ended.state, ended.attempt) == ("succeeded", 1)
        fleet.redis.call(*break_it)
        assert worker.terminate(within=8) == 0
        fleet.redis.call(*repair)
    assert "Traceback" not in worker.log.read_text()


def test_workers_and_schedulers_say_that_they_are_alive_and_when_they_end(fleet: Fleet) -> None:
    beats = LiveProcesses(fleet.redis)
    layer = held_layer(fleet.registry, "big")
    with fleet.scheduler() as scheduler, fleet.worker() as worker:
        eventually(lambda: [b.state for b in beats.of("worker")] == ["idle"], what="the worker is idle")
        eventually(lambda: [b.state for b in beats.of("scheduler")] == ["leader"], what="the scheduler leads")
        standby = Process("worker.scheduler", fleet.environment, fleet.logs / "standby.log")
        with standby:
            both = ["leader", "standby"]
            eventually(lambda: sorted(b.state for b in beats.of("scheduler")) == both, what="another one stands by")
            assert standby.terminate(within=8) == 0
        assert [beat.name.partition(":")[2] for beat in beats.of("scheduler")] == [str(scheduler.child.pid)]
        fleet.submit("team/app:1")
        assert layer.reached.wait(30)
        eventually(
            lambda: [b.state for b in beats.of("worker")] == ["copying"], what="a worker with a work horse is alive"
        )
        layer.opened.set()
        assert worker.terminate(within=8) == 0
        assert beats.of("worker") == []


@pytest.mark.parametrize("module", ["worker", "worker.scheduler", "service"])
def test_a_process_that_finds_no_redis_names_host_and_port_at_once_and_no_password(
    fleet: Fleet, tmp_path: Path, module: str
) -> None:
    port = free_port()
    url = f"redis://:low-secret@127.0.0.1:{port}/0"
    served = {"MIRROR_PORT": str(free_port()), "MIRROR_DATA_DIR": str(tmp_path)}
    environment = {**fleet.environment, **served, "MIRROR_REDIS_URL": url}
    with Process(module, environment, tmp_path / "nowhere.log") as process:
        event = "does not answer: nothing listens at its address; trying again"
        eventually(lambda: event in process.log.read_text(), what="the process says that Redis is missing")
        assert process.child.poll() is None
    log = process.log.read_text()
    assert log.count(f"127.0.0.1:{port}") >= 2  # the address it connects to, and that nothing listens there
    assert "connecting to Redis" in log
    assert "secret" not in log
    assert "Traceback" not in log


@pytest.mark.parametrize("module", ["worker", "worker.scheduler"])
def test_the_health_check_passes_while_the_loop_goes_on_and_fails_when_it_is_stuck(
    fleet: Fleet, tmp_path: Path, module: str
) -> None:
    heartbeat = tmp_path / "heartbeat"
    environment = {**fleet.environment, "MIRROR_HEARTBEAT_PATH": str(heartbeat)}

    def is_healthy() -> bool:
        program = f"import sys; from deploy.image import health; sys.exit(health.main(b'entrypoint\\0{module}'))"
        checked = {**os.environ, **environment}
        return subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=checked, timeout=60).returncode == 0

    assert not is_healthy()
    with Process(module, environment, tmp_path / "stuck.log") as process:
        eventually(heartbeat.exists, what="the loop goes on")
        assert is_healthy()
        fleet.valkey.kill()  # a worker that waits for Redis needs no restart
        _wait_for_heartbeat(heartbeat)
        process.child.send_signal(signal.SIGSTOP)
        eventually(lambda: _is_stopped(process.child.pid), what="the process is stopped")
        os.utime(heartbeat, (1, 1))
        assert not is_healthy()
        process.child.send_signal(signal.SIGCONT)
        eventually(is_healthy, what="the loop goes on again")


def _wait_for_heartbeat(heartbeat: Path) -> None:
    """Wait until the file is touched again."""
    os.utime(heartbeat, (1, 1))
    eventually(lambda: heartbeat.stat().st_mtime > 1, what="the heartbeat goes on")


def _is_stopped(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
