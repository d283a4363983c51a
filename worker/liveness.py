"""Signs that the main loop of a worker or scheduler goes on: a heartbeat in Redis, and the age of a file.

`/readyz` reads the heartbeat. The health check of the container (deploy/image/health.py) reads the file, because it
judges this one process and must not need Redis. The main loop itself writes both: a thread would go on while the loop
hangs.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from math import inf
from pathlib import Path
from time import monotonic
from typing import Final

import structlog

from mirror.errors import RedisUnavailable
from mirror.records.processes import BEAT_SECONDS, Kind, LiveProcesses

_TOUCH_SECONDS: Final = 1.0
_LOG = structlog.get_logger(__name__)


class Liveness:
    """The signs of life of one process. Use it from the main thread. Calls from other threads do nothing."""

    def __init__(
        self, kind: Kind, heartbeats: LiveProcesses, file: Path | None, *, now: Callable[[], float] = monotonic
    ) -> None:
        self._kind = kind
        self._heartbeats = heartbeats
        self._file = file
        self._now = now
        self._touched_at = -inf
        self._written_at = -inf
        self._state = ""

    def beat(self, state: str) -> None:
        """Show that the loop goes on. Writes *state* to Redis every few seconds, and at once when it changes."""
        self.touch()
        if state == self._state and self._now() - self._written_at < BEAT_SECONDS / 2:
            return
        self._state, self._written_at = state, self._now()
        try:
            self._heartbeats.beat(self._kind, state)
        except RedisUnavailable as error:
            _LOG.debug("heartbeat not written", reason=error.message)

    def touch(self) -> None:
        """Renew only the file, in a loop that waits for Redis. A restart would not help there."""
        if self._file is None or threading.current_thread() is not threading.main_thread():
            return
        if self._now() - self._touched_at < _TOUCH_SECONDS:
            return
        self._touched_at = self._now()
        try:
            self._file.touch(mode=0o600)
        except OSError as error:
            _LOG.error(
                "the heartbeat file cannot be written, so the health check will fail",
                file=str(self._file),
                reason=error.strerror,
            )
            self._file = None

    def leave(self) -> None:
        """Remove the heartbeat from Redis, because the process ends."""
        try:
            self._heartbeats.leave(self._kind)
        except RedisUnavailable as error:
            _LOG.debug("heartbeat left to expire", reason=error.message)
