"""Fault injection: kills of processes, and outages of servers.

Everything follows from the seed, except how fast the system under test works. Faults are recorded, so that a test can
tell an error that a fault explains from a bug.
"""

from __future__ import annotations

import os
import random
import signal
import threading
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from math import inf
from time import monotonic, sleep
from typing import Any, Final

from mirror.records.states import LOSSES_ALLOWED
from tests.e2e.processes import Process, eventually, is_alive
from tests.support.servers import Server

MIB: Final = 2**20
GRACE: Final = 3.0
"""Seconds after a server's return in which its clients may still get an error."""
_MIB_BETWEEN_KILLS: Final = (10.0, 150.0)
"""The source sends this many MiB between two kills, at most `_SECONDS_BETWEEN_KILLS` long."""
_SECONDS_BETWEEN_KILLS: Final = (0.5, 17.0)
_SECONDS_DOWN: Final = (0.5, 5.0)
"""How long a killed server stays down. Sometimes it restarts at once, but never after its first kill."""
_WEIGHTS: Final = {"worker": 35, "work_horse": 30, "redis": 15, "s3": 15, "scheduler": 5}
"""How often each target is killed, relative to the others."""
_TICK: Final = 0.05


class FaultLog:
    """The outages of servers and the kills of work horses.

    Safe to share between threads.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._outages: dict[str, list[tuple[float, float]]] = defaultdict(list)
        self._work_horse_kills: list[datetime] = []

    def begin_outage(self, server: str) -> None:
        """Record that the server is about to be killed."""
        with self._lock:
            self._outages[server].append((monotonic(), inf))

    def end_outage(self, server: str) -> None:
        """Record that the server accepts requests again."""
        with self._lock:
            begun, _ = self._outages[server].pop()
            self._outages[server].append((begun, monotonic()))

    def was_down(self, server: str, begun: float, ended: float) -> bool:
        """Return whether the server was down at that time, or right before it."""
        with self._lock:
            return any(down <= ended and begun <= up + GRACE for down, up in self._outages[server])

    def add_work_horse_kill(self) -> None:
        """Record a kill right after it. The reconciler notices the loss a lease later."""
        with self._lock:
            self._work_horse_kills.append(datetime.now(UTC))

    def explains_failure(self, job: Mapping[str, Any]) -> bool:
        """Return whether kills explain that the job failed with ``WORKER_LOST``.

        As many work horses must have been killed while it ran as a task may lose.
        """
        if job["error"] is None or job["error"]["code"] != "WORKER_LOST":
            return False
        begun, ended = (datetime.fromisoformat(job[name]) for name in ("started_at", "finished_at"))
        with self._lock:
            return sum(begun <= moment <= ended for moment in self._work_horse_kills) >= LOSSES_ALLOWED


@dataclass
class FaultInjector:
    """Kills processes and servers with SIGKILL, as often as asked for.

    One thread uses it: the one that starts the processes. The kernel ends a child of these tests with the thread that
    started it. *sent* returns how many bytes the source has sent in all.
    """

    workers: Sequence[Process]
    scheduler: Process
    servers: dict[str, Server]
    faults: FaultLog
    rng: random.Random
    sent: Callable[[], int]
    say: Callable[[str], None]
    killed: dict[str, int] = field(default_factory=lambda: dict.fromkeys(_WEIGHTS, 0))
    crashed: list[str] = field(default_factory=list)
    """Processes that ended without being killed."""
    _restart_at: dict[str, float] = field(default_factory=dict)

    def run(self, kills: int) -> None:
        """Inject so many kills. Return after everything runs again."""
        while sum(self.killed.values()) < kills:
            self._wait()
            self._kill(self._choose_target())
        while self._restart_at:
            self._tick()

    def _wait(self) -> None:
        enough = self.sent() + self.rng.uniform(*_MIB_BETWEEN_KILLS) * MIB
        deadline = monotonic() + self.rng.uniform(*_SECONDS_BETWEEN_KILLS)
        while self.sent() < enough and monotonic() < deadline:
            self._tick()

    def _choose_target(self) -> str:
        """Choose among what runs now.

        Each target is killed once before any is killed again.
        """
        running = {name: weight for name, weight in _WEIGHTS.items() if name not in self._restart_at}
        if not any(worker.children() for worker in self.workers):
            running.pop("work_horse")
        running = {name: running[name] for name in running if not self.killed[name]} or running
        return self.rng.choices(list(running), list(running.values()))[0]

    def _kill(self, target: str) -> None:
        if target == "worker":
            self._kill_worker()
        elif target == "work_horse":
            self._kill_work_horse()
        elif target == "scheduler":
            self._count(target, "scheduler")
            self.scheduler.kill()
            self.scheduler.start()
        else:
            self._kill_server(target)

    def _kill_server(self, target: str) -> None:
        seconds = self.rng.uniform(*_SECONDS_DOWN)
        if self.killed[target]:
            seconds = self.rng.choice([0.0, seconds])
        self._count(target, f"{target} for {seconds:.1f} s")
        self.faults.begin_outage(target)
        self.servers[target].kill()
        self._restart_at[target] = monotonic() + seconds
        self._tick()

    def _kill_worker(self) -> None:
        """Kill a worker, preferably a busy one. Its work horse must die with it."""
        busy = [worker for worker in self.workers if worker.children()]
        worker = self.rng.choice(busy or list(self.workers))
        work_horses = worker.children()
        self._count("worker", f"{worker.log.stem}{', which is busy' if work_horses else ''}")
        worker.kill()
        if work_horses:
            self.faults.add_work_horse_kill()
        eventually(lambda: not any(map(is_alive, work_horses)), within=5, what="the work horse died with its worker")
        worker.start()

    def _kill_work_horse(self) -> None:
        work_horses = [(worker, pid) for worker in self.workers for pid in worker.children()]
        if not work_horses:
            return
        worker, pid = self.rng.choice(work_horses)
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            return
        self.faults.add_work_horse_kill()
        self._count("work_horse", f"the work horse of {worker.log.stem}")

    def _count(self, target: str, what: str) -> None:
        self.killed[target] += 1
        self.say(f"kill {sum(self.killed.values())}: {what}")

    def _tick(self) -> None:
        """Restart servers that were down long enough, and processes that crashed."""
        sleep(_TICK)
        for name, due in list(self._restart_at.items()):
            if monotonic() >= due:
                self.servers[name].restart()
                self.faults.end_outage(name)
                del self._restart_at[name]
        for process in [*self.workers, self.scheduler]:
            if (status := process.child.poll()) is not None:
                self.crashed.append(f"{process.log.stem} ended by itself: {status}")
                self.say(self.crashed[-1])
                process.start()
