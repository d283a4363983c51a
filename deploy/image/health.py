"""The image's health check.

It asks for `/livez` of a service, and for the age of a worker's or scheduler's heartbeat file.

It asks `/livez` and not `/readyz`, because a restart does not help a service whose Redis is unavailable. For the same
reason a worker or scheduler renews its heartbeat file also while it waits for Redis.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Final

from mirror.settings import Settings
from service.probe import is_ok

STUCK_SECONDS: Final = 60.0
"""Age in seconds of a heartbeat file after which the main loop is stuck. It is renewed every few seconds."""


def main(command: bytes | None = None) -> int:
    """Return 0 for a healthy container, else 1.

    *command* is the command line of its first process.
    """
    words = (command if command is not None else Path("/proc/1/cmdline").read_bytes()).split(b"\0")
    settings = Settings.load()
    if b"service" in words:
        return 0 if is_ok(settings.host, settings.port, "/livez", timeout=4, tls=settings.serves_tls) else 1
    return 0 if settings.heartbeat_path and is_fresh(settings.heartbeat_path) else 1


def is_fresh(heartbeat: Path) -> bool:
    """Return whether the heartbeat file was touched lately.

    If not, print why, for `docker inspect`. After the clock was set back, the file may be from the future. It is then
    not fresh until the process touches it again, a few seconds later.
    """
    try:
        age = abs(time.time() - heartbeat.stat().st_mtime)
    except OSError:
        print(f"no heartbeat at {heartbeat} yet")
        return False
    if age > STUCK_SECONDS:
        print(f"the last heartbeat is {age:.0f} s away from now")
        return False
    return True


if __name__ == "__main__":
    sys.exit(main())
