"""Docker Hub's pull limit, as a script for `FakeRegistry.script`: a manifest GET costs one, a HEAD costs nothing."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from time import monotonic

from tests.fakes.server import Reply, Request

REFUSAL = json.dumps(
    {
        "errors": [
            {
                "code": "TOOMANYREQUESTS",
                "message": "You have reached your pull rate limit. You may increase the limit by authenticating and "
                "upgrading: https://www.docker.com/increase-rate-limit",
            }
        ]
    }
).encode()


class PullLimit:
    """*limit* manifest reads in a window of *window* seconds, which begins with the first read after the last ended.

    *clock* says how late it is, so that a test can end a window.
    """

    def __init__(self, limit: int, *, window: int, clock: Callable[[], float] = monotonic) -> None:
        self.limit = limit
        self.window = window
        self.refused = 0
        self.windows = 0
        self._clock = clock
        self._lock = threading.Lock()
        self._used = 0
        self._ends = 0.0

    def __call__(self, request: Request, reply: Reply) -> Reply | None:
        if "/manifests/" not in request.path or reply.status == 401:
            return None
        with self._lock:
            allowed = self._count(request)
            left = self.limit - self._used
        headers = {
            "ratelimit-limit": f"{self.limit};w={self.window}",
            "ratelimit-remaining": f"{left};w={self.window}",
            "docker-ratelimit-source": "192.0.2.7",
        }
        if not allowed:
            return Reply(429, {**headers, "Content-Type": "application/json"}, REFUSAL)
        return Reply(reply.status, {**reply.headers, **headers}, reply.body)

    @property
    def used(self) -> int:
        """Reads in the current window."""
        return self._used

    def _count(self, request: Request) -> bool:
        now = self._clock()
        if now >= self._ends:
            self._used = 0
        if request.method == "HEAD":
            return True
        if self._used == 0:
            self._ends = now + self.window
            self.windows += 1
        if self._used == self.limit:
            self.refused += 1
            return False
        self._used += 1
        return True
