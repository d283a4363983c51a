"""``python -m deploy.local.tether --parent PID [--share FILE] [--lock FILE] -- PROGRAM ARGUMENT...``

Becomes PROGRAM after tying it to its supervisor, so that a supervisor killed with SIGKILL leaves no process behind:
the kernel sends the program SIGTERM when its parent ends. Locks (flock) taken here stay with the program, and with all
that it starts, until the last of them has ended, however it ends: FILE after ``--share`` is shared by all programs of
one data folder and tells whether any of them is still alive; FILE after ``--lock`` has one owner at a time, and a
second program waits for it, so that two servers never write the same data.
"""

from __future__ import annotations

import argparse
import ctypes
import fcntl
import os
import signal
import sys
from typing import Final

_PR_SET_PDEATHSIG: Final = 1  # linux/prctl.h


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m deploy.local.tether")
    parser.add_argument("--parent", type=int, required=True)
    parser.add_argument("--share")
    parser.add_argument("--lock")
    parser.add_argument("command", nargs="+")
    options = parser.parse_args(arguments)

    end_with(options.parent)
    if options.share:
        keep_lock(options.share, fcntl.LOCK_SH)
    if options.lock:
        keep_lock(options.lock, fcntl.LOCK_EX)
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # Python ignores it, and an ignored signal stays so over exec
    os.execv(options.command[0], options.command)  # noqa: S606 - that is what it is for


def end_with(parent: int) -> None:
    """Ask the kernel for SIGTERM when *parent*, which must be our parent, ends; only Linux can do that."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != parent:  # it ended before the kernel knew that we care
        raise SystemExit("tether: the supervisor is gone")


def keep_lock(path: str, kind: int) -> None:
    """Take the lock, waiting as long as it needs, on a descriptor that the program inherits and never closes."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(descriptor, kind)
    fcntl.fcntl(descriptor, fcntl.F_SETFD, 0)  # no FD_CLOEXEC


if __name__ == "__main__":
    main(sys.argv[1:])
