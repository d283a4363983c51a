"""The image's health check: the service must answer `/livez`; a worker or scheduler is well while it runs.

`/livez` and not `/readyz`: a service whose Redis is away is not cured by a restart.
"""

from __future__ import annotations

import http.client
import sys
from pathlib import Path

from mirror.settings import Settings


def main() -> int:
    command = Path("/proc/1/cmdline").read_bytes().split(b"\0")
    return 0 if b"service" not in command or is_alive(Settings.load()) else 1


def is_alive(settings: Settings) -> bool:
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)
    connection = http.client.HTTPConnection(host, settings.port, timeout=4)
    try:
        connection.request("GET", "/livez")
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


if __name__ == "__main__":
    sys.exit(main())
