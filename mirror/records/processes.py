"""Which workers and schedulers are alive: each says so every few seconds, and a reader judges by the age of that.

The heartbeat is written by the process's main loop, not by a thread of its own: a process whose loop is stuck is not
alive. All times are those of Redis.
"""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from typing import Final, Literal

from mirror.redis import keys
from mirror.redis.client import NOW, Redis

Kind = Literal["worker", "scheduler"]

BEAT_SECONDS: Final = 5.0
ALIVE_SECONDS: Final = 20.0
"""A process that has been silent for longer counts as dead: four heartbeats."""
_REMEMBERED_SECONDS: Final = 600
"""How long a process that died is still listed."""

_BEAT: Final = (
    NOW
    + f"""
-- KEYS: the heartbeats of this kind. ARGV: the process, what it does.
local moment = now()
local found = redis.call('HGETALL', KEYS[1])
for i = 1, #found, 2 do
  local at = tonumber(string.match(found[i + 1], '^%d+')) or 0
  if moment - at > {_REMEMBERED_SECONDS * 1000} then redis.call('HDEL', KEYS[1], found[i]) end
end
redis.call('HSET', KEYS[1], ARGV[1], string.format('%d', moment) .. ' ' .. ARGV[2])
redis.call('EXPIRE', KEYS[1], {_REMEMBERED_SECONDS})
return 1
"""
)


@dataclass(frozen=True, slots=True)
class LiveProcess:
    """The last heartbeat of a process, *age* seconds ago; ``state`` is what it did then."""

    name: str
    state: str
    age: float

    @property
    def is_alive(self) -> bool:
        return self.age <= ALIVE_SECONDS


class LiveProcesses:
    """The heartbeats of the whole fleet; every method raises RedisUnavailable."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._beat = redis.script(_BEAT)

    def beat(self, kind: Kind, state: str, *, name: str | None = None) -> None:
        """Say that this process is alive, and what it does."""
        self._beat([keys.heartbeats(kind)], [name or this_process(), state])

    def leave(self, kind: Kind, *, name: str | None = None) -> None:
        """Say that this process ends: nobody has to wait until its heartbeat is old."""
        self._redis.call("HDEL", keys.heartbeats(kind), name or this_process())

    def of(self, kind: Kind) -> list[LiveProcess]:
        """The processes of the last ten minutes, the youngest heartbeat first. Writes nothing."""
        (seconds, micros), found = self._redis.calls([["TIME"], ["HGETALL", keys.heartbeats(kind)]])
        now = int(seconds) * 1000 + int(micros) // 1000
        parsed = [(name, *text.partition(" ")) for name, text in found.items()]
        beats = [LiveProcess(name, state, max(0, now - int(at)) / 1000) for name, at, _, state in parsed]
        return sorted(beats, key=lambda beat: beat.age)


def this_process() -> str:
    """``host:pid``."""
    return f"{socket.gethostname()}:{os.getpid()}"
