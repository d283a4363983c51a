"""Bringing writes to the disk for an S3 server on this machine that answers before they are there."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path
from typing import Final

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
