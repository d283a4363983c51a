"""The disk of an S3 server that runs on this machine: bring writes to it, and see whether there is room for more.

The embedded S3 responds before its writes are on the disk, and returns a plain 500 when the disk is full.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mirror.errors import StorageFull, StorageUnavailable
from mirror.storage.s3 import DISK_FULL, UploadGone, translated

_RESERVE: Final = 2**20
"""Bytes that stay free: links, manifests and folders need some too."""
_LIBC: Final = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class LocalDisk:
    """The file system that holds *folder*. None: the server is elsewhere, and nothing is known of its disk."""

    folder: Path | None

    @property
    def is_known(self) -> bool:
        return self.folder is not None

    def free(self) -> int | None:
        """Return the bytes that are free for a user who is not root, None if that cannot be known."""
        if self.folder is None:
            return None
        try:
            found = os.statvfs(self.folder)
        except OSError:
            return None
        return found.f_bavail * found.f_frsize

    def lacks(self, size: int) -> bool:
        """Whether it is known that *size* more bytes do not fit. 1 MiB always stays free."""
        free = self.free()
        return free is not None and free < size + _RESERVE

    def described(self) -> str:
        return f"{self.free()} bytes are free"

    def require_room(self, size: int) -> None:
        """Raise StorageFull if it is known that *size* more bytes do not fit."""
        if self.lacks(size):
            error = StorageFull(f"store {size} bytes more", f"{DISK_FULL}, {self.described()}")
            error.needed = size
            raise error

    def sync(self) -> None:
        """Return when all that the server stored would survive a power cut. Raises StorageFull or StorageUnavailable.

        S3 itself promises that. For a server that does not, one syncfs(2) brings all pending data, names and sizes to
        the disk, of every object and folder, whichever process wrote it.
        """
        if self.folder is None:
            return
        try:
            _sync_file_system(self.folder)
        except OSError as error:
            kind = StorageFull if error.errno in (errno.ENOSPC, errno.EDQUOT) else StorageUnavailable
            reason = DISK_FULL if kind is StorageFull else os.strerror(error.errno or 0)
            raise kind("bring its objects to the disk", reason) from None

    @contextmanager
    def writing(self, action: str, size: int) -> Iterator[None]:
        """Translate the errors of a write of *size* bytes. It is StorageFull if this disk has no room for it.

        rclone says of a full disk only that the write failed.
        """
        try:
            with translated(action):
                yield
        except StorageUnavailable as error:
            found = error
            if not isinstance(error, UploadGone) and self.lacks(size):
                found = StorageFull(action, f"{DISK_FULL}, {self.described()}")
            found.size = size
            raise found from None


def _sync_file_system(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        if _LIBC.syncfs(descriptor) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
    finally:
        os.close(descriptor)
