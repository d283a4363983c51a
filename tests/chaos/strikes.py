"""When work horses were killed, so that a task that was given up can be judged."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from mirror.records.states import LOSSES_ALLOWED


class Strikes:
    """The moments at which a work horse was killed, with its worker or alone. Safe to share between threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._moments: list[datetime] = []

    def note(self) -> None:
        """Called right behind the kill: the loss is found a lease later."""
        with self._lock:
            self._moments.append(datetime.now(UTC))

    def explain(self, job: Mapping[str, Any]) -> bool:
        """Whether a job's document says ``WORKER_LOST``, and as many horses were killed while it ran as that takes."""
        if job["error"] is None or job["error"]["code"] != "WORKER_LOST":
            return False
        begun, ended = (datetime.fromisoformat(job[name]) for name in ("started_at", "finished_at"))
        with self._lock:
            return sum(begun <= moment <= ended for moment in self._moments) >= LOSSES_ALLOWED
