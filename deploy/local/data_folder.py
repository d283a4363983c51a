"""The data folder of `make run`: its paths, secrets and notes.

    <data>/lock                 locked by the running `make run`.
    <data>/admin-token          the first admin token (service/http/admin_token.py).
    <data>/env                  variables with which other tools reach the same Redis and bucket.
    <data>/versions.json        the newest version of each embedded server that opened the folder.
    <data>/ports.json           the embedded servers' ports, kept for the next start.
    <data>/secrets/<name>       generated once.
    <data>/valkey/, <data>/s3/  the embedded servers' data.
    <data>/run/                 written at every start: configuration, locks.

Only the owner can read what is in it.
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

_SECRET: Final = re.compile(r"[A-Za-z0-9_-]{20,}")


class CannotStart(Exception):
    """The product does not start.

    The message is for the user: what is wrong, and what to do.
    """


@dataclass(frozen=True, slots=True)
class DataFolder:
    """The files of one mirror below an absolute path. `open` creates missing folders."""

    root: Path

    @classmethod
    def open(cls, root: Path) -> Self:
        """Create the folder where it is missing.

        Raises CannotStart if it cannot be created or written, or if no configuration file can name its path.
        """
        if not str(root).isprintable():
            raise CannotStart("The path of the data folder has characters that cannot be printed. Choose another one.")
        folder = cls(root)
        with folder.explained_errors():
            root.mkdir(mode=0o700, parents=True, exist_ok=True)
            for part in (folder.run, folder.valkey, folder.s3, folder.secrets):
                part.mkdir(mode=0o700, exist_ok=True)
            folder.children_lock.touch(mode=0o600)
        return folder

    @contextmanager
    def explained_errors(self) -> Iterator[None]:
        """Turn an OSError into CannotStart, which names the file and the problem."""
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
        """Locked by the running `make run`."""
        return self.root / "lock"

    @property
    def children_lock(self) -> Path:
        """Locked (shared) by every process of this folder while it lives."""
        return self.run / "children.lock"

    @property
    def guard_lock(self) -> Path:
        """Locked by the guard process (deploy/local/orphans.py)."""
        return self.run / "guard.lock"

    @property
    def valkey_lock(self) -> Path:
        """Locked by the embedded Valkey."""
        return self.valkey / "lock"

    @property
    def s3_lock(self) -> Path:
        """Locked by the embedded S3 server."""
        return self.s3 / "lock"

    def secret(self, name: str) -> str:
        """Return the secret *name*: 43 letters, digits, ``-`` and ``_``.

        It is generated once and then kept.

        Raises CannotStart if its file is damaged.
        """
        path = self.secrets / name
        if not path.exists():
            write_private(path, secrets.token_urlsafe(32))
        secret = path.read_text(encoding="ascii", errors="replace").strip()
        if not _SECRET.fullmatch(secret):
            raise CannotStart(f"The file {path} is damaged: it should hold a secret. Delete it to get a new one.")
        return secret

    def read_note(self, name: str) -> dict[str, object]:
        """Return the JSON object in the file *name*, or an empty one.

        Raises CannotStart if the file is damaged.
        """
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
    """Write a file of mode 0600 in one step.

    A reader, or a crash, finds the old content or the new one.
    """
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(descriptor)
    draft.replace(path)


def _reason(error: OSError, root: Path) -> str:
    """Return the file's path and what is wrong with it."""
    path = Path(os.fsdecode(error.filename2 or error.filename or root))
    suspects = [path, *path.parents] if isinstance(error, FileExistsError | NotADirectoryError) else []
    for suspect in suspects:
        if os.path.lexists(suspect) and not suspect.is_dir():
            return f"{suspect} is a {'link that leads to no folder' if suspect.is_symlink() else 'file, not a folder'}"
    reason = error.strerror or type(error).__name__
    return reason if path == root else f"{path}: {reason}"
