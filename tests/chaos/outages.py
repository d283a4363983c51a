"""When a server was away, so that a refusal can be judged."""

from __future__ import annotations

import threading
from collections import defaultdict
from math import inf
from time import monotonic
from typing import Final

GRACE: Final = 3.0
"""Seconds behind a server's return in which its clients may still be told of its absence."""


class Outages:
    """The outages of servers by name, on the clock of this process. Safe to share between threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._windows: dict[str, list[tuple[float, float]]] = defaultdict(list)

    def begin(self, server: str) -> None:
        """Called before the server is killed."""
        with self._lock:
            self._windows[server].append((monotonic(), inf))

    def end(self, server: str) -> None:
        """Called when the server answers again."""
        with self._lock:
            begun, _ = self._windows[server].pop()
            self._windows[server].append((begun, monotonic()))

    def excuse(self, server: str, begun: float, ended: float) -> bool:
        """Whether the server was away during some of that time, or had come back just before."""
        with self._lock:
            return any(down <= ended and begun <= up + GRACE for down, up in self._windows[server])
