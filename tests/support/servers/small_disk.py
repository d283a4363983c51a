"""A disk that a test can fill: a small tmpfs, or a limit on file sizes."""

from __future__ import annotations

import os
import resource
import subprocess
from pathlib import Path
from typing import Final, Self

from tests.support.servers.process import Server

_SIZE: Final = 24 * 2**20
_PIECE: Final = 4096


class SmallDisk:
    """A file system of 24 MiB at *folder* during the block.

    Without root there is none (`is_real`). Then `fill` makes every write of the server fail with EFBIG, and the free
    space that the machine reports does not change.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.is_real = os.getuid() == 0

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.is_real:
            options = f"size={_SIZE},mode=0777"
            subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(self.folder)], check=True)
        return self

    def __exit__(self, *_: object) -> None:
        if self.is_real:
            subprocess.run(["umount", "--lazy", str(self.folder)], check=True)

    def fill(self, server: Server, *, leave: int = 0) -> None:
        """Fill the disk up to *leave* free bytes. Without root, no bytes are left."""
        if self.is_real:
            self._filler.write_bytes(b"")
            found = os.statvfs(self.folder)
            self._write(found.f_bavail * found.f_frsize - leave)
        else:
            self._limit(server, 0)

    def clear(self, server: Server) -> None:
        """Free the space, so that the server can write again."""
        if self.is_real:
            self._filler.unlink()
        else:
            self._limit(server, resource.RLIM_INFINITY)

    @property
    def _filler(self) -> Path:
        return self.folder / "filler"

    def _write(self, size: int) -> None:
        with self._filler.open("wb", buffering=0) as file:
            while size > 0:
                size -= file.write(bytes(min(size, _PIECE)))

    @staticmethod
    def _limit(server: Server, most: int) -> None:
        assert server.pid is not None
        hard = resource.prlimit(server.pid, resource.RLIMIT_FSIZE)[1]
        resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (most, hard))
