"""The data folder: who may use it, and the private files in it.

    <data>/lock                 held by the running `make run`
    <data>/admin-token          the first admin token (service/admin_token.py)
    <data>/env                  how other tools reach the same Redis and bucket
    <data>/versions.json        the newest embedded servers that ever opened it
    <data>/ports.json           the embedded servers' ports, to be the same next time
    <data>/secrets/<name>       generated once
    <data>/valkey/, <data>/s3/  the embedded servers' data
    <data>/run/                 made anew at every start: configuration, locks

Everything in it is readable by its owner only.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from deploy.local.errors import CannotStart

LEFTOVERS_WITHIN: Final = 15.0
"""Seconds that the processes of a killed `make run` get to end: more than the slowest of them takes."""
_POLL: Final = 0.05


@dataclass(frozen=True, slots=True)
class DataFolder:
    """An absolute path; `open` makes what is missing."""

    root: Path

    @classmethod
    def open(cls, root: Path) -> Self:
        """Raises CannotStart if the folder cannot be made, written, or named in a configuration file."""
        if not str(root).isprintable():
            raise CannotStart("The path of the data folder has characters that cannot be printed; choose another one.")
        folder = cls(root)
        try:
            root.mkdir(mode=0o700, parents=True, exist_ok=True)
            for part in (folder.run, folder.valkey, folder.s3, folder.secrets):
                part.mkdir(mode=0o700, exist_ok=True)
            folder.children_lock.touch(mode=0o600)
        except OSError as error:
            raise CannotStart(f"The data folder {root} cannot be used: {error.strerror}.") from None
        return folder

    @property
    def run(self) -> Path:
        return self.root / "run"

    @property
    def valkey(self) -> Path:
        return self.root / "valkey"

    @property
    def s3(self) -> Path:
        return self.root / "s3"

    @property
    def secrets(self) -> Path:
        return self.root / "secrets"

    @property
    def children_lock(self) -> Path:
        """Shared by every process that was started on this folder, for as long as it lives."""
        return self.run / "children.lock"

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Be the only one on this folder, and wait for what a killed predecessor left running.

        Raises CannotStart if another one runs on it, or if the predecessor's processes do not end.
        """
        with (self.root / "lock").open("a+", encoding="ascii") as lock:
            if not _locked(lock.fileno()):
                lock.seek(0)
                raise CannotStart(
                    f"Image Mirror already runs on the data folder {self.root} (process {lock.read().strip()});"
                    " stop it first, or set MIRROR_DATA_DIR."
                )
            lock.truncate(0)
            lock.write(f"{os.getpid()}\n")
            lock.flush()
            self._wait_for_leftovers()
            yield

    def _wait_for_leftovers(self) -> None:
        deadline = time.monotonic() + LEFTOVERS_WITHIN
        with self.children_lock.open("r+b") as lock:
            while not _locked(lock.fileno()):
                if time.monotonic() > deadline:
                    raise CannotStart(
                        f"Processes of an earlier run still use the data folder {self.root}; end them first"
                        f" ('fuser {self.children_lock}' names them)."
                    )
                time.sleep(_POLL)

    def secret(self, name: str) -> str:
        """The secret *name*: 43 letters, digits, ``-`` and ``_``, generated once and the same ever after."""
        path = self.secrets / name
        if not path.exists():
            write_private(path, secrets.token_urlsafe(32))
        return path.read_text(encoding="ascii").strip()

    def read_note(self, name: str) -> dict[str, object]:
        """The JSON object in the file *name*; empty if there is none. Raises CannotStart if it is damaged."""
        with suppress(FileNotFoundError):
            try:
                note = json.loads((self.root / name).read_text(encoding="utf-8"))
            except ValueError:
                note = None
            if not isinstance(note, dict):
                raise CannotStart(f"The file {self.root / name} is damaged: it should hold a JSON object.")
            return note
        return {}

    def write_note(self, name: str, note: Mapping[str, object]) -> None:
        write_private(self.root / name, json.dumps(note, indent=2, sort_keys=True) + "\n")


def write_private(path: Path, text: str) -> None:
    """Write a file of mode 0600 in one step: a reader, or a crash, finds the old content or the new one."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(descriptor)
    draft.replace(path)


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
