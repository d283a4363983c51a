"""The disk of a server on this machine: whether writes are on it, and whether there is room for more.

The embedded S3 answers before its writes are on the disk, and answers a full disk with a plain 500.
"""

from __future__ import annotations

import ctypes
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

RESERVE: Final = 2**20
"""Bytes that stay free: links, manifests and folders need some too."""
_LIBC: Final = ctypes.CDLL(None, use_errno=True)


def sync_file_system(folder: Path) -> None:
    """Write all that is pending on the file system of *folder* to its disk: data, names and sizes (syncfs(2)).

    One call covers every object, link and new folder, whichever process wrote it. Raises OSError.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        if _LIBC.syncfs(descriptor) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
    finally:
        os.close(descriptor)


@dataclass(frozen=True, slots=True)
class LocalDisk:
    """The file system that holds *folder*."""

    folder: Path

    def free(self) -> int | None:
        """Bytes that are free for a user who is not root; None if that cannot be known."""
        try:
            found = os.statvfs(self.folder)
        except OSError:
            return None
        return found.f_bavail * found.f_frsize

    def lacks(self, size: int) -> bool:
        """Whether it is known that *size* more bytes do not fit, with `RESERVE` left."""
        free = self.free()
        return free is not None and free < size + RESERVE

    def described(self) -> str:
        return f"{self.free()} bytes are free"
