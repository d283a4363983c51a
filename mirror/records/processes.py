"""Which workers and schedulers are alive.

Each writes a heartbeat every few seconds, and readers check its age.

A process writes its heartbeat in its main loop, not in a thread of its own. So a process whose main loop is stuck does
not count as alive. All times are those of Redis.
"""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from typing import Final, Literal

from mirror.redis import keys
from mirror.redis.client import Redis
from mirror.redis.scripts import load_script

Kind = Literal["worker", "scheduler"]

BEAT_SECONDS: Final = 5.0
ALIVE_SECONDS: Final = 20.0
"""A process whose last heartbeat is older counts as dead. That is four heartbeats."""
_BEAT: Final = load_script("mirror.records", "heartbeat.lua", constants={"KEPT_SECONDS": 600})


@dataclass(frozen=True, slots=True)
class LiveProcess:
    """The last heartbeat of a process, *age* seconds ago.

    ``state`` is what the process did then.
    """

    name: str
    state: str
    age: float

    @property
    def is_alive(self) -> bool:
        return self.age <= ALIVE_SECONDS


class LiveProcesses:
    """The heartbeats of all processes. Every method raises RedisUnavailable."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._beat = redis.script(_BEAT)

    def beat(self, kind: Kind, state: str, *, name: str | None = None) -> None:
        """Note that this process is alive, and what it does."""
        self._beat([keys.heartbeats(kind)], [name or this_process(), state])

    def leave(self, kind: Kind, *, name: str | None = None) -> None:
        """Remove the heartbeat of this process, which ends. It counts as dead at once."""
        self._redis.call("HDEL", keys.heartbeats(kind), name or this_process())

    def of(self, kind: Kind) -> list[LiveProcess]:
        """Return the processes of the last ten minutes, the youngest heartbeat first.

        Writes nothing.
        """
        now, found = self._redis.read_now(), self._redis.call("HGETALL", keys.heartbeats(kind))
        parsed = [(name, *text.partition(" ")) for name, text in found.items()]
        beats = [LiveProcess(name, state, max(0, now - int(at)) / 1000) for name, at, _, state in parsed]
        return sorted(beats, key=lambda beat: beat.age)


def this_process() -> str:
    """Return ``host:pid``."""
    return f"{socket.gethostname()}:{os.getpid()}"
