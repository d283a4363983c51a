"""``python -m deploy.local.readiness HOST PORT URL``: says when the API answers that it is ready, and ends."""

from __future__ import annotations

import sys
import time
from typing import Final

from service.probe import is_ok

PATIENCE: Final = 60.0
"""Seconds until a start that takes long is remarked on."""
_POLL: Final = 0.2


def main(host: str, port: int, url: str) -> None:
    remark_at: float | None = time.monotonic() + PATIENCE
    while not is_ok(host, port, "/readyz", timeout=5):
        if remark_at and time.monotonic() > remark_at:
            print(f"Not ready after {PATIENCE:.0f} s: see the lines above, and {url}/readyz?verbose", flush=True)
            remark_at = None
        time.sleep(_POLL)
    print(f"Ready: {url}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3])
