"""The image's health check: the service must answer `/livez`; a worker or scheduler is well while it runs.

`/livez` and not `/readyz`: a service whose Redis is away is not cured by a restart.
"""

from __future__ import annotations

import sys
from pathlib import Path

from mirror.settings import Settings
from service.probe import is_ok


def main() -> int:
    command = Path("/proc/1/cmdline").read_bytes().split(b"\0")
    if b"service" not in command:
        return 0
    settings = Settings.load()
    return 0 if is_ok(settings.host, settings.port, "/livez", timeout=4) else 1


if __name__ == "__main__":
    sys.exit(main())
