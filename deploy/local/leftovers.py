"""Find and end the processes that a killed supervisor left on its data folder.

A process belongs to a data folder while it holds the folder's `children_lock` (deploy/local/tether.py). The kernel
lists the locks of every open file in ``/proc/<pid>/fdinfo/<fd>`` (proc(5)), also those that a fork inherited. A process
id alone proves nothing, since the kernel gives it to another program later. So every signal goes through a pidfd
(pidfd_open(2)) that is opened before the lock is checked.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from deploy.local.data_folder import DataFolder

STOP_WITHIN: Final = 5.0
"""Seconds that programs get to end after SIGTERM: as long as supervisord gives the slowest of them."""
SERVER_STOPS_WITHIN: Final = 1.5
"""Seconds that each embedded server gets to end after SIGTERM."""
_KILLED_WITHIN: Final = 2.0
_POLL: Final = 0.1


def end_all(folder: DataFolder) -> None:
    """End every other process that belongs to the folder: programs first, then S3, and Valkey last.

    The programs got SIGTERM from the kernel when their supervisor died. A second one would make a worker drop its task
    instead of handing it over, so they are only waited for, and killed if they do not end.
    """
    _end(folder, lambda: _programs(folder), STOP_WITHIN, ask=False)
    _end(folder, lambda: holders(folder.s3_lock), SERVER_STOPS_WITHIN, ask=True)
    _end(folder, lambda: holders(folder.valkey_lock), SERVER_STOPS_WITHIN, ask=True)


def _programs(folder: DataFolder) -> set[int]:
    return holders(folder.children_lock) - holders(folder.s3_lock) - holders(folder.valkey_lock)


def holders(lock: Path) -> set[int]:
    """Return the ids of all processes but this one that hold *lock* (flock). Without Linux's /proc none is found."""
    try:
        wanted = lock.stat()
        pids = {int(entry) for entry in os.listdir("/proc") if entry.isdigit()}  # noqa: PTH208 - only names are needed - a third of the time
    except OSError:
        return set()
    return {pid for pid in pids - {os.getpid()} if _holds(pid, wanted)}


def describe(pids: set[int]) -> str:
    """Name processes for a person, such as ``python (12), rclone (13)``."""
    return ", ".join(f"{_program(pid)} ({pid})" for pid in sorted(pids))


def _end(folder: DataFolder, members: Callable[[], set[int]], within: float, *, ask: bool) -> None:
    if ask:
        _send(signal.SIGTERM, members(), folder)
    if not gone(members, within):
        _send(signal.SIGKILL, members(), folder)
        gone(members, _KILLED_WITHIN)


def gone(members: Callable[[], set[int]], within: float) -> bool:
    """Wait until *members* returns none. Return False if it still returns some after *within* seconds."""
    deadline = time.monotonic() + within
    while members():
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL)
    return True


def _send(number: signal.Signals, pids: set[int], folder: DataFolder) -> None:
    """Send the signal to those that still hold the folder's lock."""
    wanted = folder.children_lock.stat()
    for pid in pids:
        try:
            descriptor = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        try:
            if _holds(pid, wanted):
                signal.pidfd_send_signal(descriptor, number)
        except ProcessLookupError:
            continue
        finally:
            os.close(descriptor)


def _holds(pid: int, wanted: os.stat_result) -> bool:
    """Whether an open file of the process is the *wanted* one, with a lock on it."""
    try:
        descriptors = os.listdir(f"/proc/{pid}/fd")  # noqa: PTH208
    except OSError:  # it has ended, or belongs to another user
        return False
    return any(_is_locked(pid, descriptor, wanted) for descriptor in descriptors)


def _is_locked(pid: int, descriptor: str, wanted: os.stat_result) -> bool:
    try:
        opened = os.stat(f"/proc/{pid}/fd/{descriptor}")  # noqa: PTH116 - this is called for every open file
        if not os.path.samestat(opened, wanted):
            return False
        return "FLOCK" in Path(f"/proc/{pid}/fdinfo/{descriptor}").read_text()
    except OSError:  # closed meanwhile
        return False


def _program(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return "process"
