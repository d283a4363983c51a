"""Find and end orphaned processes, and let one `make run` use a data folder.

A process is orphaned when its supervisor was killed. It belongs to a data folder while it holds a lock on the folder's
`children_lock` (deploy/local/parent_death.py). The kernel lists the locks of every open file in
``/proc/<pid>/fdinfo/<fd>`` (proc(5)), also those that a fork inherited. A process id alone proves nothing, because the
kernel gives it to another program later. So every signal goes through a pidfd (pidfd_open(2)) that is opened before the
lock is checked.

``python -m deploy.local.orphans --parent PID FOLDER`` is the guard. supervisord starts it first and stops it last. When
the supervisor is killed with SIGKILL, the kernel sends SIGTERM to the guard and to all programs. The guard gives the
programs time to end, and ends the embedded servers after that. So a worker can still hand its task over to Redis.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final

from deploy.local.data_folder import CannotStart, DataFolder
from deploy.local.parent_death import end_with_parent

STOP_WITHIN: Final = 5.0
"""Seconds that programs get to end after SIGTERM: as long as supervisord gives the slowest of them."""
SERVER_STOPS_WITHIN: Final = 1.5
"""Seconds that each embedded server gets to end after SIGTERM."""
GUARD_WITHIN: Final = 12.0
"""Seconds that a new start gives the guard of the killed one: more than all waits of `end_orphans` together."""
_KILLED_WITHIN: Final = 2.0
_RELEASED_WITHIN: Final = 3.0
"""Seconds in which a process that /proc does not show must release its lock. It may run in another container."""
_POLL: Final = 0.1


def main(arguments: list[str]) -> None:
    """Wait until the parent dies, then end all other processes of the folder."""
    parser = argparse.ArgumentParser(prog="python -m deploy.local.orphans")
    parser.add_argument("--parent", type=int, required=True)
    parser.add_argument("folder", type=Path)
    options = parser.parse_args(arguments)

    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # before the kernel may send it
    end_with_parent()
    if os.getppid() == options.parent:
        signal.sigwait({signal.SIGTERM})
    if os.getppid() != options.parent:
        end_orphans(DataFolder(options.folder))


@contextmanager
def single_instance(folder: DataFolder, warn: Callable[[str], None]) -> Iterator[None]:
    """Be the only `make run` on this folder during the block.

    Orphans of a killed one are ended first, with a warning.

    Raises CannotStart if another one runs on the folder, or if the orphans do not end.
    """
    with folder.explained_errors():
        lock = folder.lock.open("a+", encoding="ascii", errors="replace")
    with lock:
        with folder.explained_errors():
            _lock_folder(folder, lock)
            _end_orphans_of_last_run(folder, warn)
        yield


def _lock_folder(folder: DataFolder, lock: IO[str]) -> None:
    if not _try_lock(lock):
        lock.seek(0)
        raise CannotStart(
            f"Image Mirror already runs on the data folder {folder.root} (process {lock.read().strip()}). Stop it"
            " first. To run a second one, set MIRROR_DATA_DIR and MIRROR_PORT in a shell that has not sourced"
            f" {folder.root / 'env'}."
        )
    lock.truncate(0)
    lock.write(f"{os.getpid()}\n")
    lock.flush()


def _end_orphans_of_last_run(folder: DataFolder, warn: Callable[[str], None]) -> None:
    with folder.children_lock.open("r+b") as lock:
        if _try_lock(lock):
            return
        warn(f"Ending the processes of an earlier run that was killed: {describe(lock_holders(folder.children_lock))}")
        _wait_until_none(lambda: lock_holders(folder.guard_lock), GUARD_WITHIN)
        end_orphans(folder)
        if not _wait_until_none(lambda: set() if _try_lock(lock) else {0}, _RELEASED_WITHIN):
            left = describe(lock_holders(folder.children_lock)) or f"'fuser {folder.children_lock}' lists them"
            raise CannotStart(
                f"Processes of an earlier run still use the data folder {folder.root} and do not end: {left}."
            )


def _try_lock(file: IO[str] | IO[bytes]) -> bool:
    """Lock the file until it is closed.

    Return False if another process holds the lock.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def end_orphans(folder: DataFolder) -> None:
    """End every other process of the folder: programs, then S3, and Valkey last.

    The kernel sent SIGTERM to the programs when their supervisor died. A second SIGTERM would make a worker drop its
    task instead of handing it over. So this only waits for them, and kills those that do not end.
    """
    _end(folder, lambda: _programs(folder), STOP_WITHIN, terminate=False)
    _end(folder, lambda: lock_holders(folder.s3_lock), SERVER_STOPS_WITHIN, terminate=True)
    _end(folder, lambda: lock_holders(folder.valkey_lock), SERVER_STOPS_WITHIN, terminate=True)


def lock_holders(lock: Path) -> set[int]:
    """Return the ids of all other processes that hold *lock* (flock).

    Without Linux's /proc it finds none.
    """
    try:
        wanted = lock.stat()
        pids = {int(entry) for entry in os.listdir("/proc") if entry.isdigit()}  # noqa: PTH208 - names only - only names are needed - a third of the time
    except OSError:
        return set()
    return {pid for pid in pids - {os.getpid()} if _holds(pid, wanted)}


def describe(pids: set[int]) -> str:
    """Return the processes' names and ids, such as ``python (12), rclone (13)``."""
    return ", ".join(f"{_program_name(pid)} ({pid})" for pid in sorted(pids))


def _wait_until_none(pids: Callable[[], set[int]], within: float) -> bool:
    """Wait until *pids* returns none.

    Return False if it still returns some after *within* seconds.
    """
    deadline = time.monotonic() + within
    while pids():
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL)
    return True


def _programs(folder: DataFolder) -> set[int]:
    return lock_holders(folder.children_lock) - lock_holders(folder.s3_lock) - lock_holders(folder.valkey_lock)


def _end(folder: DataFolder, pids: Callable[[], set[int]], within: float, *, terminate: bool) -> None:
    if terminate:
        _send(signal.SIGTERM, pids(), folder)
    if not _wait_until_none(pids, within):
        _send(signal.SIGKILL, pids(), folder)
        _wait_until_none(pids, _KILLED_WITHIN)


def _send(number: signal.Signals, pids: set[int], folder: DataFolder) -> None:
    """Send the signal to those processes that still hold the folder's lock."""
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
    """Return whether the process has the *wanted* file open with a lock on it."""
    try:
        descriptors = os.listdir(f"/proc/{pid}/fd")  # noqa: PTH208 - names only
    except OSError:  # it has ended, or belongs to another user
        return False
    return any(_is_locked(pid, descriptor, wanted) for descriptor in descriptors)


def _is_locked(pid: int, descriptor: str, wanted: os.stat_result) -> bool:
    try:
        opened = os.stat(f"/proc/{pid}/fd/{descriptor}")  # noqa: PTH116 - this is called for every open file
        if not os.path.samestat(opened, wanted):
            return False
        return "FLOCK" in Path(f"/proc/{pid}/fdinfo/{descriptor}").read_text()
    except OSError:  # it was closed meanwhile
        return False


def _program_name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return "process"


if __name__ == "__main__":
    main(sys.argv[1:])
