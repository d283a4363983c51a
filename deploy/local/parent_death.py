"""Run a program that ends when its parent dies.

    python -m deploy.local.parent_death --parent PID [OPTION ...] -- PROGRAM ARGUMENT...

Asks the kernel for a signal at the parent's death (PR_SET_PDEATHSIG), then becomes the program (exec). So a supervisor
that is killed with SIGKILL leaves no process running.

``--share FILE``
    Hold a shared lock (flock) on FILE. All programs of one data folder share it, so it shows which of them still live.
``--lock FILE``
    Hold an exclusive lock on FILE. A second program waits for it, so two servers never write the same data.
``--outlive``
    Go on when the supervisor dies. Without this option the kernel sends SIGTERM to the program. Servers outlive the
    supervisor, because workers still need them to end properly. The guard ends them last (deploy/local/orphans.py).
``--only PATTERN``, ``--without PATTERN``
    Pass only these environment variables, or all but these. Both may be repeated, with ``*`` as the wildcard.

The program inherits the locks, and so does every process that it forks. A lock ends with the last of them.
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
    parser = argparse.ArgumentParser(prog="python -m deploy.local.parent_death")
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
    if os.getppid() != options.parent:  # it ended before end_with_parent()
        raise SystemExit("parent_death: the supervisor has ended")
    if options.share:
        _keep_lock(options.share, fcntl.LOCK_SH)
    if options.lock:
        _keep_lock(options.lock, fcntl.LOCK_EX)
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # Python ignores it, and exec keeps an ignored signal ignored
    environment = _filtered(os.environ, options.only, options.without)
    os.execve(options.command[0], options.command, environment)  # noqa: S606 - running a command is the purpose


def end_with_parent() -> None:
    """Ask the kernel for SIGTERM when our parent ends. Only Linux supports this."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


def _keep_lock(path: str, kind: int) -> None:
    """Wait for the lock, and take it on a descriptor that the program inherits."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(descriptor, kind)
    fcntl.fcntl(descriptor, fcntl.F_SETFD, 0)  # no FD_CLOEXEC


def _filtered(environment: Mapping[str, str], only: Sequence[str], without: Sequence[str]) -> dict[str, str]:
    """Return the variables that match *only* (all if it is empty) and not *without*."""
    return {
        name: value
        for name, value in environment.items()
        if (not only or _matches(name, only)) and not _matches(name, without)
    }


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


if __name__ == "__main__":
    main(sys.argv[1:])
