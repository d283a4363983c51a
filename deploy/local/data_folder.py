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

import json
import os
import re
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from deploy.local.errors import CannotStart

_SECRET: Final = re.compile(r"[A-Za-z0-9_-]{20,}")


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
        with folder.in_use():
            root.mkdir(mode=0o700, parents=True, exist_ok=True)
            for part in (folder.run, folder.valkey, folder.s3, folder.secrets):
                part.mkdir(mode=0o700, exist_ok=True)
            folder.children_lock.touch(mode=0o600)
        return folder

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Raise CannotStart, which says what is wrong with which file, where the block raises OSError."""
        try:
            yield
        except OSError as error:
            raise CannotStart(
                f"The data folder {self.root} cannot be used: {_reason(error, self.root)}."
                " Set MIRROR_DATA_DIR to a folder that can be written."
            ) from None

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
    def lock(self) -> Path:
        """Held by the running `make run`."""
        return self.root / "lock"

    @property
    def children_lock(self) -> Path:
        """Shared by every process that was started on this folder, for as long as it lives."""
        return self.run / "children.lock"

    @property
    def guard_lock(self) -> Path:
        """Held by the guard, which ends the others if their supervisor is killed."""
        return self.run / "guard.lock"

    @property
    def valkey_lock(self) -> Path:
        """Held by the embedded Valkey."""
        return self.valkey / "lock"

    @property
    def s3_lock(self) -> Path:
        """Held by the embedded S3."""
        return self.s3 / "lock"

    def secret(self, name: str) -> str:
        """The secret *name*: 43 letters, digits, ``-`` and ``_``, generated once and the same ever after."""
        path = self.secrets / name
        if not path.exists():
            write_private(path, secrets.token_urlsafe(32))
        secret = path.read_text(encoding="ascii", errors="replace").strip()
        if not _SECRET.fullmatch(secret):
            raise CannotStart(f"The file {path} is damaged: it should hold a secret. Delete it, and a new one is made.")
        return secret

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


def _reason(error: OSError, root: Path) -> str:
    """Return what is wrong with which file, in words."""
    at = Path(os.fsdecode(error.filename2 or error.filename or root))
    suspects = [at, *at.parents] if isinstance(error, FileExistsError | NotADirectoryError) else []
    for path in suspects:
        if os.path.lexists(path) and not path.is_dir():
            return f"{path} is a {'link that leads to no folder' if path.is_symlink() else 'file, not a folder'}"
    reason = error.strerror or type(error).__name__
    return reason if at == root else f"{at}: {reason}"
