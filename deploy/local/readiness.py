"""Print a line when the API is ready: ``deploy.local.readiness SCHEME HOST PORT URL``."""

from __future__ import annotations

import sys
import time
from typing import Final

from service.probe import is_ok

_SLOW_START: Final = 60.0
"""Seconds after which a line says that the start takes long."""
_POLL: Final = 0.2


def main(scheme: str, host: str, port: int, url: str) -> None:
    slow_at: float | None = time.monotonic() + _SLOW_START
    while not is_ok(host, port, "/readyz", timeout=5, tls=scheme == "https"):
        if slow_at and time.monotonic() > slow_at:
            print(f"Not ready after {_SLOW_START:.0f} s: read the lines above and {url}/readyz?verbose", flush=True)
            slow_at = None
        time.sleep(_POLL)
    print(f"Ready: {url}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4])
