"""The token of the API: configured, or made once and kept in the data directory."""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import Final

from mirror.settings import InvalidSettings, Settings, is_loopback, token_problem

FILE_NAME: Final = "admin-token"
_BYTES: Final = 32


def admin_token(settings: Settings) -> str:
    """The configured token, or else the one in the data directory, which is made (mode 0600) when first asked for.

    Raises InvalidSettings off loopback, where a token is never made, and where the file cannot be read or written.
    """
    if settings.admin_token is not None:
        return settings.admin_token
    if not is_loopback(settings.host):
        raise InvalidSettings(
            {"MIRROR_ADMIN_TOKEN": [f"must be set when MIRROR_HOST is {settings.host}, not loopback"]}
        )
    path = settings.data_dir / FILE_NAME
    try:
        if not path.exists():
            _create(path, secrets.token_urlsafe(_BYTES))
        token = path.read_text(encoding="ascii", errors="replace").strip()
    except OSError as error:
        reason = f"cannot keep the admin token: {error.strerror}; or set MIRROR_ADMIN_TOKEN"
        raise InvalidSettings({"MIRROR_DATA_DIR": [reason]}) from None
    if problem := token_problem(token):
        raise InvalidSettings({"MIRROR_DATA_DIR": [f"holds an {FILE_NAME} that cannot be used: it {problem}"]})
    return token


def _create(path: Path, token: str) -> None:
    """Write the file whole or not at all; where another process was first, its token stands."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    draft = path.with_name(f".{FILE_NAME}-{secrets.token_hex(8)}")
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(handle, "w", encoding="ascii") as file:
            file.write(f"{token}\n")
        path.hardlink_to(draft)
    except FileExistsError:
        return
    finally:
        draft.unlink()
