"""``python -m deploy.local.tether --parent PID [OPTION ...] -- PROGRAM ARGUMENT...``

Become PROGRAM after tying it to its supervisor, so that a supervisor killed with SIGKILL leaves no process behind.

``--share FILE``
    Hold a shared lock (flock) on FILE. All programs of one data folder share it, so it tells which of them still live.
``--lock FILE``
    Hold an exclusive lock on FILE. A second program waits for it, so two servers never write the same data.
``--outlive``
    Go on when the supervisor dies. Without it the kernel then sends the program SIGTERM. Servers outlive the
    supervisor, because workers still need them to end properly. `deploy.local.guard` ends them last.
``--only PATTERN``, ``--without PATTERN``
    Pass on only these environment variables, or all but these. Both may be repeated, with ``*`` as the wildcard.

Locks stay with the program, and with all that it forks, until the last of them has ended, however it ends.
"""

from __future__ import annotations

import argparse
import ctypes
import fcntl
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Final

_PR_SET_PDEATHSIG: Final = 1  # linux/prctl.h


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m deploy.local.tether")
    parser.add_argument("--parent", type=int, required=True)
    parser.add_argument("--share")
    parser.add_argument("--lock")
    parser.add_argument("--outlive", action="store_true")
    parser.add_argument("--only", action="append", default=[])
    parser.add_argument("--without", action="append", default=[])
    parser.add_argument("command", nargs="+")
    options = parser.parse_args(arguments)

    if not options.outlive:
        end_with_parent()
    if os.getppid() != options.parent:  # it ended before the kernel knew that we care
        raise SystemExit("tether: the supervisor is gone")
    if options.share:
        keep_lock(options.share, fcntl.LOCK_SH)
    if options.lock:
        keep_lock(options.lock, fcntl.LOCK_EX)
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # Python ignores it, and an ignored signal stays so over exec
    environment = passed_on(os.environ, options.only, options.without)
    os.execve(options.command[0], options.command, environment)  # noqa: S606 - that is what it is for


def end_with_parent() -> None:
    """Ask the kernel for SIGTERM when our parent ends. Only Linux can do that."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


def keep_lock(path: str, kind: int) -> None:
    """Take the lock, waiting as long as it needs, on a descriptor that the program inherits and never closes."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(descriptor, kind)
    fcntl.fcntl(descriptor, fcntl.F_SETFD, 0)  # no FD_CLOEXEC


def passed_on(environment: Mapping[str, str], only: Sequence[str], without: Sequence[str]) -> dict[str, str]:
    """Return the variables that match one of *only*, or all if it is empty, and none of *without*."""
    return {
        name: value
        for name, value in environment.items()
        if (not only or _matches(name, only)) and not _matches(name, without)
    }


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


if __name__ == "__main__":
    main(sys.argv[1:])
