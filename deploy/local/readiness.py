"""``python -m deploy.local.readiness HOST PORT URL``: says when the API answers that it is ready, and ends."""

from __future__ import annotations

import http.client
import sys
import time
from typing import Final

PATIENCE: Final = 60.0
"""Seconds until a start that takes long is remarked on."""
_POLL: Final = 0.2
_EVERYWHERE: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}


def main(host: str, port: int, url: str) -> None:
    remark_at: float | None = time.monotonic() + PATIENCE
    while not is_ready(host, port):
        if remark_at and time.monotonic() > remark_at:
            print(f"  Not ready after {PATIENCE:.0f} s: see the lines above, and {url}/readyz?verbose", flush=True)
            remark_at = None
        time.sleep(_POLL)
    print(f"  Ready: {url}", flush=True)


def is_ready(host: str, port: int) -> bool:
    """Whether ``/readyz`` answers 200."""
    connection = http.client.HTTPConnection(_EVERYWHERE.get(host, host), port, timeout=5)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3])
