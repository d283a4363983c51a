"""Credentials of the sync file, for the processes that read from registries.

``${NAME}`` is a variable of the environment of this process. The file is read again for every lookup, so that a change
needs no restart. A file that is broken or missing changes nothing: the last good version of this process counts. A
process that has never seen a good one cannot know which credentials there are. So it refuses every lookup.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import structlog

from mirror.errors import CredentialsUnavailable, FileProblem, SyncFileInvalid
from mirror.registry.credentials import Credential, lookup_names
from mirror.schedules.sync_file import decode, read_sync_file
from mirror.schedules.watch import read_file

_SETTLED_SECONDS: Final = 1.0
"""Seconds after a write during which a file may still be written. Until then the last good version counts."""
_HINT: Final = "Mend the file that MIRROR_SYNC_FILE names, on the worker's host."
_LOG = structlog.get_logger(__name__)


class FileCredentials:
    """The credentials of one file. Safe to share between threads, and kept across a fork."""

    def __init__(self, path: Path, environment: Mapping[str, str]) -> None:
        self._path = path
        self._environment = environment
        self._lock = threading.Lock()
        self._version: str | None = None
        self._held: Mapping[str, Credential] | None = None
        self._reason = "it was not read yet"

    def credential(self, registry: str, repository: str) -> Credential | None:
        """Return the credential of the longest ``registry/namespace``, else of the registry. None if there is none.

        Raises CredentialsUnavailable.
        """
        self.refresh()
        held = self._held
        if held is None:
            raise CredentialsUnavailable(registry, f"the sync file cannot be used: {self._reason}", hint=_HINT)
        return next((held[name] for name in lookup_names(registry, repository) if name in held), None)

    def refresh(self) -> None:
        """Read the file if it has changed. A worker does so before each fork: its children then have a good version."""
        with self._lock:
            try:
                content = read_file(self._path)
                age = abs(time.time() - self._path.stat().st_mtime)
            except OSError:
                content = None
            if content is None:
                self._refuse("missing", "the file is missing, or cannot be read")
            elif self._held is None or age >= _SETTLED_SECONDS:
                self._read(content, hashlib.sha256(content).hexdigest())

    def _read(self, content: bytes, version: str) -> None:
        if version == self._version:
            return
        try:
            file = read_sync_file(decode(content), self._environment)
        except SyncFileInvalid as error:
            self._refuse(version, error.message, error.problems[0])
        else:
            self._held = {one.registry: one.credential for one in file.credentials}
            self._version = version
            _LOG.info("credentials of the sync file are read", names=[one.name for one in file.credentials])

    def _refuse(self, version: str, reason: str, first: FileProblem | None = None) -> None:
        """Keep the last good version. Log each bad one once."""
        if version == self._version:
            return
        self._version, self._reason = version, reason
        place = {"line": first.line, "column": first.column} if first else {}
        kept = self._held is not None
        _LOG.warning("credentials of the sync file cannot be read", **place, reason=reason, last_good_ones_stay=kept)
