"""The programs that `make run` starts: one `Process` for each."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Final

from deploy.local.data_folder import DataFolder
from mirror.settings import Settings

BASIC: Final = ("PATH", "HOME", "LANG", "LANGUAGE", "LC_*", "TZ", "TMPDIR", "LD_LIBRARY_PATH")
"""Environment variables that any program may need. None of them is secret."""
PYTHON: Final = ("PYTHON*", "VIRTUAL_ENV")
TOKENS: Final = ("MIRROR_ADMIN_TOKEN", "MIRROR_ADMIN_TOKEN_FILE", "MIRROR_PULL_TOKEN", "MIRROR_PULL_TOKEN_FILE")
"""The variables with tokens that only the service checks."""
SIGNING_KEY: Final = ("MIRROR_ATTESTATION_KEY", "MIRROR_ATTESTATION_KEY_FILE")
"""The variables with the key that only workers use."""
S3_SERVER: Final = ("RCLONE_AUTH_KEY",)
"""The variable with which the embedded S3 server receives its key pair."""


class Stage(IntEnum):
    """When a process starts and stops.

    Stages start in ascending order without waiting for each other. They stop in descending order, each after the one
    before has ended. Redis stops late because workers hand their tasks over to it. The guard stops last, because it
    ends the other processes if the supervisor is killed.
    """

    GUARD = 0
    REDIS = 10
    S3 = 20
    API = 30
    WORK = 40


@dataclass(frozen=True, slots=True)
class Process:
    """A program that runs in *copies*.

    It is started again when it ends, unless it runs *once*.

    To stop, it gets SIGTERM and has *stop_within* seconds. After that its process group is killed. It receives the
    environment variables that match *only*, or all if that is empty, and none that match *without*. If it *outlives* a
    killed supervisor, the guard ends it. Otherwise the kernel does.
    """

    name: str
    command: Sequence[str | Path]
    stage: Stage
    stop_within: int
    copies: int = 1
    lock: Path | None = None
    once: bool = False
    only: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    outlives: bool = False


def product(settings: Settings) -> list[Process]:
    """Return the processes of Image Mirror itself."""
    python = sys.executable
    withheld = (*TOKENS, *S3_SERVER)
    return [
        Process("service", (python, "-m", "service"), Stage.API, stop_within=2, without=(*S3_SERVER, *SIGNING_KEY)),
        Process("worker", (python, "-m", "worker"), Stage.WORK, 5, copies=settings.workers, without=withheld),
        Process("scheduler", (python, "-m", "worker.scheduler"), Stage.WORK, 5, without=(*withheld, *SIGNING_KEY)),
        readiness(settings),
    ]


def readiness(settings: Settings) -> Process:
    """Return the process that prints a line when the API is ready."""
    scheme, address = "https" if settings.serves_tls else "http", (settings.host, str(settings.port))
    command = (sys.executable, "-m", "deploy.local.readiness", scheme, *address, settings.public_url)
    return Process("readiness", command, Stage.WORK, stop_within=1, once=True, only=(*BASIC, *PYTHON))


def guard(folder: DataFolder) -> Process:
    """Return the process that ends all others if this supervisor is killed."""
    command = (sys.executable, "-m", "deploy.local.orphans", "--parent", str(os.getpid()), folder.root)
    only = (*BASIC, *PYTHON)
    return Process("guard", command, Stage.GUARD, 1, lock=folder.guard_lock, outlives=True, only=only)
