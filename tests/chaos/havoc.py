"""What is killed, when, and when it comes back; all of it follows from the seed, but for how fast things move."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from time import monotonic, sleep
from typing import Final

from tests.chaos.outages import Outages
from tests.chaos.strikes import Strikes
from tests.e2e.processes import Process, eventually, is_alive
from tests.servers import Server

MIB: Final = 2**20
_PROGRESS: Final = (10.0, 150.0)
"""MiB that the source sends between two kills."""
_PATIENCE: Final = (0.5, 17.0)
"""Seconds between two kills where so much is not sent."""
_AWAY: Final = (0.5, 5.0)
"""Seconds for which a server stays away, unless it comes back at once; the first time it does not."""
_VICTIMS: Final = {"worker": 35, "horse": 30, "redis": 15, "s3": 15, "scheduler": 5}
_TICK: Final = 0.05


@dataclass
class Havoc:
    """Kills with SIGKILL until `killed` reaches what was asked for; used by one thread, the one that starts children,
    since the kernel ends a child of these tests with the thread that started it.

    *sent* says how many bytes the source has sent in all.
    """

    workers: Sequence[Process]
    scheduler: Process
    servers: dict[str, Server]
    outages: Outages
    strikes: Strikes
    rng: random.Random
    sent: Callable[[], int]
    say: Callable[[str], None]
    killed: dict[str, int] = field(default_factory=lambda: dict.fromkeys(_VICTIMS, 0))
    fell: list[str] = field(default_factory=list)
    """Processes that ended without being killed."""
    _back: dict[str, float] = field(default_factory=dict)

    def rage(self, kills: int) -> None:
        """Return after so many kills, when everything runs again."""
        while sum(self.killed.values()) < kills:
            self._wait_for_a_moment()
            self._kill(self._victim())
        while self._back:
            self._tick()

    def _wait_for_a_moment(self) -> None:
        enough = self.sent() + self.rng.uniform(*_PROGRESS) * MIB
        deadline = monotonic() + self.rng.uniform(*_PATIENCE)
        while self.sent() < enough and monotonic() < deadline:
            self._tick()

    def _victim(self) -> str:
        """Whatever is there to be killed; at first one of each kind."""
        there = {name: weight for name, weight in _VICTIMS.items() if name not in self._back}
        if not any(worker.children() for worker in self.workers):
            there.pop("horse")
        there = {name: there[name] for name in there if not self.killed[name]} or there
        return self.rng.choices(list(there), list(there.values()))[0]

    def _kill(self, victim: str) -> None:
        if victim == "worker":
            self._kill_worker()
        elif victim == "horse":
            self._kill_horse()
        elif victim == "scheduler":
            self._note(victim, "scheduler")
            self.scheduler.kill()
            self.scheduler.start()
        else:
            away = self.rng.uniform(*_AWAY)
            if self.killed[victim]:
                away = self.rng.choice([0.0, away])
            self._note(victim, f"{victim} for {away:.1f} s")
            self.outages.begin(victim)
            self.servers[victim].kill()
            self._back[victim] = monotonic() + away
            self._tick()

    def _kill_worker(self) -> None:
        """Preferably one that works. Its horse must die with it."""
        busy = [worker for worker in self.workers if worker.children()]
        worker = self.rng.choice(busy or list(self.workers))
        horses = worker.children()
        self._note("worker", f"{worker.log.stem}{', at work' if horses else ''}")
        worker.kill()
        if horses:
            self.strikes.note()
        eventually(lambda: not any(map(is_alive, horses)), within=5, what="the work horse died with its worker")
        worker.start()

    def _kill_horse(self) -> None:
        horses = [(worker, pid) for worker in self.workers for pid in worker.children()]
        if not horses:
            return
        worker, pid = self.rng.choice(horses)
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            return
        self.strikes.note()
        self._note("horse", f"the horse of {worker.log.stem}")

    def _note(self, victim: str, what: str) -> None:
        self.killed[victim] += 1
        self.say(f"kill {sum(self.killed.values())}: {what}")

    def _tick(self) -> None:
        """Bring back what is due, and what fell by itself."""
        sleep(_TICK)
        for name, due in list(self._back.items()):
            if monotonic() >= due:
                self.servers[name].restart()
                self.outages.end(name)
                del self._back[name]
        for process in [*self.workers, self.scheduler]:
            if (status := process.child.poll()) is not None:
                self.fell.append(f"{process.log.stem} ended by itself: {status}")
                self.say(self.fell[-1])
                process.start()
