"""Trusted roots: the files that say which authorities of Sigstore may confirm an identity. Nothing is downloaded."""

from __future__ import annotations

import re
from importlib import resources
from pathlib import Path
from typing import Final

from mirror.errors import TrustedRootUnavailable

_LARGEST: Final = 4 * 1024 * 1024
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,99}", re.ASCII)
_SIGSTORE: Final = ("_store", "https%3A%2F%2Ftuf-repo-cdn.sigstore.dev", "trusted_root.json")
"""The root of Sigstore's public instance, in the package `sigstore`. It is as old as that release."""


class TrustedRoots:
    """The trusted roots in a folder, ``<name>.json`` each, and without a name that of Sigstore's public instance."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder

    def require(self, name: str) -> None:
        """Raise TrustedRootUnavailable if there is no trusted root of this name."""
        if name and not self._path(name).is_file():
            raise TrustedRootUnavailable(name, "there is no such file")

    def read(self, name: str) -> bytes:
        """Return the bytes of a trusted root. Raises TrustedRootUnavailable."""
        try:
            if not name:
                return resources.files("sigstore").joinpath(*_SIGSTORE).read_bytes()
            with self._path(name).open("rb") as file:
                found = file.read(_LARGEST + 1)
        except OSError:
            raise TrustedRootUnavailable(name, "its file cannot be read") from None
        if len(found) > _LARGEST:
            raise TrustedRootUnavailable(name, f"its file has more than {_LARGEST} bytes")
        return found

    def _path(self, name: str) -> Path:
        if self._folder is None:
            raise TrustedRootUnavailable(name, "MIRROR_TRUSTED_ROOTS names no folder")
        if not _NAME.fullmatch(name):
            raise TrustedRootUnavailable(name, "that is no name of a trusted root")
        return self._folder / f"{name}.json"
