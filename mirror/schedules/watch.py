"""Follow a sync file: the schedules become what it says, soon after each change and again every minute.

A file that is broken, empty or missing changes nothing. A changed file is applied when two looks in a row have found
the same bytes: a program may still be writing it, and the half of a file may be a file with fewer schedules.

The lease of the periodic task makes one scheduler look at a time. If schedulers see different versions, as while a
ConfigMap is rolled out, the version of the one with the lease counts.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable
from pathlib import Path
from time import monotonic
from typing import Final

from mirror.errors import FileProblem, SyncFileInvalid
from mirror.schedules.converge import Converger
from mirror.schedules.sync_file import SyncFile, decode, read_sync_file
from mirror.schedules.yaml_reader import MOST_BYTES

_REPEAT_SECONDS: Final = 60.0
"""Seconds after which an unchanged file is applied again: somebody may have changed its schedules by hand."""
_NEVER: Final = "never"
_UNREADABLE: Final = "unreadable"


def read_file(path: Path) -> bytes | None:
    """Return the bytes of a file, at most one more than a sync file may have. None if there is none.

    A pipe or a device counts as none: reading it might never end. Raises OSError.
    """
    try:
        file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    with os.fdopen(file, "rb") as opened:
        return opened.read(MOST_BYTES + 1) if stat.S_ISREG(os.fstat(file).st_mode) else None


class SyncFileWatcher:
    """Looks at a file each time that `run` is called. One thread uses it. *clock* is monotonic, in seconds."""

    def __init__(self, path: Path, converger: Converger, clock: Callable[[], float] = monotonic) -> None:
        self._path = path
        self._converger = converger
        self._clock = clock
        self._seen: str | None = _NEVER
        self._handled: str | None = _NEVER
        self._file: SyncFile | tuple[FileProblem, ...] = ()
        self._repeat_at = 0.0

    def run(self, _alive: Callable[[], bool]) -> None:
        """Apply the file if it has changed, or if a minute has passed. Raises RedisUnavailable."""
        content, version = self._look()
        if version != self._seen:
            self._seen = version
        elif version != self._handled or self._clock() >= self._repeat_at:
            if version != self._handled:
                self._file = self._read(content)
            self._follow(version)
            self._handled, self._repeat_at = version, self._clock() + _REPEAT_SECONDS

    def _look(self) -> tuple[bytes | None, str | None]:
        """Return the file and its SHA-256. None for both if it is missing, and a word if it cannot be read."""
        try:
            content = read_file(self._path)
        except OSError:
            return None, _UNREADABLE
        return content, None if content is None else hashlib.sha256(content).hexdigest()

    def _read(self, content: bytes | None) -> SyncFile | tuple[FileProblem, ...]:
        if content is None:
            return ()
        try:
            file = read_sync_file(decode(content))
            self._converger.require_possible(file)
        except SyncFileInvalid as error:
            return error.problems
        return file

    def _follow(self, version: str | None) -> None:
        name = self._path.name
        if version is None:
            self._converger.note_unusable("missing", name)
        elif version == _UNREADABLE:
            problem = FileProblem(1, 1, "The schedulers may not read the file.")
            self._converger.note_unusable("broken", name, problems=(problem,))
        elif isinstance(self._file, SyncFile):
            self._converger.converge(self._file, version, name)
        else:
            self._converger.note_unusable("broken", name, version, self._file)
