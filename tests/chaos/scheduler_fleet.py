"""Schedulers as real processes. Their clock is a key in Redis, and each dies or freezes at a command that is its fate.

``python -m tests.chaos.scheduler_fleet URL LOG`` forks a scheduler for every line that it reads, and prints its id. So
a new scheduler costs no imports.
"""

from __future__ import annotations

import ctypes
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Final, NoReturn, Self

import redis
from redis.connection import AbstractConnection

from mirror.errors import RedisUnavailable
from mirror.records.fields import at
from mirror.redis.failures import PATIENT
from mirror.settings import Settings
from mirror.wiring import Core, build
from tests.support.servers.process import killed_with_parent

CLOCK: Final = "test:clock"
_SCHEDULERS: Final = 3
_REST: Final = 0.003
"""Seconds between two ticks of a scheduler."""
_LOST_REPLIES: Final = 0.01
"""Share of commands and pipelines whose reply does not arrive, so that they are sent again."""
_LONGEST_LIFE: Final = 250
"""Commands after which a scheduler has died at the latest."""
_FROZEN_STEPS: Final = 3
_PR_SET_PDEATHSIG: Final = 1


def core_of(url: str) -> Core:
    """Build a core whose wall clock is a key in Redis. It uses neither S3 nor a registry."""
    settings = Settings(redis_url=url, s3_bucket="unused")
    core = build(settings, retries=PATIENT, now=lambda: clock_of(core))
    return core


def clock_of(core: Core) -> datetime:
    return at(int(core.redis.call("GET", CLOCK)))


@dataclass
class Fleet:
    """Three schedulers. One that dies is replaced, and one that is frozen goes on after some steps."""

    url: str
    log: Path
    rng: random.Random
    happened: Counter[str] = field(default_factory=Counter)
    _frozen: dict[int, int] = field(default_factory=dict)
    _pids: list[int] = field(default_factory=list)

    def __enter__(self) -> Self:
        command = [*killed_with_parent(), sys.executable, "-m", "tests.chaos.scheduler_fleet", self.url, str(self.log)]
        self._server = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        self._pids = [self._fork() for _ in range(_SCHEDULERS)]
        return self

    def __exit__(self, *_: object) -> None:
        for pid in self._pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._server.kill()
        self._server.communicate()

    def tend(self, step: int) -> None:
        """Replace schedulers that have died, and wake up those that were frozen for long enough."""
        for place, pid in enumerate(self._pids):
            state = _state(pid)
            if state in ("", "Z"):
                self.happened["killed"] += 1
                self._frozen.pop(pid, None)
                self._pids[place] = self._fork()
            elif state == "T" and pid not in self._frozen:
                self.happened["frozen"] += 1
                self._frozen[pid] = step + self.rng.randint(1, _FROZEN_STEPS)
        if len(self._frozen) == len(self._pids):
            self._thaw(min(self._frozen, key=lambda pid: self._frozen[pid]))
        for pid in [pid for pid, until in self._frozen.items() if until <= step]:
            self._thaw(pid)

    def _thaw(self, pid: int) -> None:
        del self._frozen[pid]
        os.kill(pid, signal.SIGCONT)

    def _fork(self) -> int:
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.write(f"{self.rng.getrandbits(64)}\n")
        self._server.stdin.flush()
        return int(self._server.stdout.readline())


def _state(pid: int) -> str:
    """Return the letter of a process' state, as in ``ps``. Empty for one that is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):  # the latter if it ends while its file is read
        return ""


class _Fate:
    """Kills this process at one of its commands, before or after it is sent. It also freezes it, and loses replies."""

    def __init__(self, seed: int) -> None:
        self._rng = random.Random(seed)
        self._sent = 0
        self._loses_reply = False
        self._dies_at = self._rng.randint(1, _LONGEST_LIFE)
        self._freezes_at = self._rng.randint(1, _LONGEST_LIFE)
        self._is_before = self._rng.random() < 0.5

    def install(self) -> None:
        connections: Any = AbstractConnection
        send, receive = connections.send_packed_command, connections.read_response

        def send_packed_command(connection: Any, *args: Any, **more: Any) -> None:
            self._sent += 1
            self._loses_reply = self._rng.random() < _LOST_REPLIES
            if self._is_before:
                self._strike()
            send(connection, *args, **more)
            if not self._is_before:
                self._strike()

        def read_response(connection: Any, *args: Any, **more: Any) -> Any:
            reply = receive(connection, *args, **more)
            if self._loses_reply:
                self._loses_reply = False
                raise redis.ConnectionError("the reply is lost")
            return reply

        connections.send_packed_command = send_packed_command
        connections.read_response = read_response

    def _strike(self) -> None:
        if self._sent == self._freezes_at:
            os.kill(os.getpid(), signal.SIGSTOP)
        if self._sent == self._dies_at:
            os.kill(os.getpid(), signal.SIGKILL)


def _schedule(core: Core, seed: int) -> NoReturn:
    """Tick until this process is killed, by its fate or because its parent died."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    _Fate(seed).install()
    while True:
        with suppress(RedisUnavailable):
            core.ticker.run(lambda: True)
        time.sleep(_REST)


def _serve(url: str, log: str) -> None:
    """Fork a scheduler for each line of standard input."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # so that no child stays as a zombie
    core = core_of(url)
    replies = os.fdopen(os.dup(1), "w")
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(file, 1)
    os.dup2(file, 2)
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            _schedule(core, int(line))
        print(pid, file=replies, flush=True)


if __name__ == "__main__":
    _serve(*sys.argv[1:])
