"""Claim a data folder: be the only `make run` on it, and end what a killed predecessor left running."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, Final

from deploy.local.data_folder import DataFolder
from deploy.local.errors import CannotStart
from deploy.local.leftovers import describe, end_all, gone, holders

GUARD_WITHIN: Final = 12.0
"""Seconds that the predecessor's guard gets for its work: more than all its waits together."""

_RELEASED_WITHIN: Final = 3.0
"""Seconds until the lock of a process that this machine's /proc does not show, as of another container, must end."""


@contextmanager
def claimed(folder: DataFolder, say: Callable[[str], None]) -> Iterator[None]:
    """Be the only one on this folder. Processes of a killed predecessor are ended first, and *say* is told so.

    Raises CannotStart if another one runs on the folder, or if the predecessor's processes do not end.
    """
    with folder.in_use():
        lock = folder.lock.open("a+", encoding="ascii", errors="replace")
    with lock:
        with folder.in_use():
            _claim(folder, lock)
            _end_leftovers(folder, say)
        yield


def _claim(folder: DataFolder, lock: IO[str]) -> None:
    if not _locked(lock):
        lock.seek(0)
        raise CannotStart(
            f"Image Mirror already runs on the data folder {folder.root} (process {lock.read().strip()}); stop it"
            " first, or start another one with MIRROR_DATA_DIR and MIRROR_PORT set, in a shell that has not sourced"
            f" {folder.root / 'env'}."
        )
    lock.truncate(0)
    lock.write(f"{os.getpid()}\n")
    lock.flush()


def _end_leftovers(folder: DataFolder, say: Callable[[str], None]) -> None:
    with folder.children_lock.open("r+b") as lock:
        if _locked(lock):
            return
        say(f"Ending the processes of an earlier run that was killed: {describe(holders(folder.children_lock))}")
        gone(lambda: holders(folder.guard_lock), GUARD_WITHIN)
        end_all(folder)
        if not gone(lambda: set() if _locked(lock) else {0}, _RELEASED_WITHIN):
            left = describe(holders(folder.children_lock)) or f"'fuser {folder.children_lock}' names them"
            raise CannotStart(
                f"Processes of an earlier run still use the data folder {folder.root} and do not end: {left}."
            )


def _locked(file: IO[str] | IO[bytes]) -> bool:
    """Take the lock on the file, which ends when the file is closed. Return False if another process holds it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
