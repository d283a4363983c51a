"""What `make run` starts, as data: one `Process` per program."""

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
"""What any program may need. None of it is secret."""
PYTHON: Final = ("PYTHON*", "VIRTUAL_ENV")
ADMIN_TOKEN: Final = ("MIRROR_ADMIN_TOKEN", "MIRROR_ADMIN_TOKEN_FILE")
S3_SERVER: Final = ("RCLONE_AUTH_KEY",)
"""What the embedded S3 server is passed for itself."""


class Stage(IntEnum):
    """When a process starts and stops: stages start in ascending order, all at once, and stop in descending order,
    each only after the one before has ended. Redis is last: workers hand their tasks over to it. Only the guard, which
    ends the others if the supervisor is killed, outlasts it."""

    GUARD = 0
    REDIS = 10
    S3 = 20
    API = 30
    WORK = 40


@dataclass(frozen=True, slots=True)
class Process:
    """A program that runs in *copies*, and is started again when it ends unless it runs *once*.

    It gets SIGTERM and *stop_within* seconds to end; then all that is left of its process group is killed. Of the
    environment it is passed the variables that match *only*, if that is not empty, and none that match *without*.
    A process that *outlives* a killed supervisor is ended by the guard, the others by the kernel.
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
    foreign = (*ADMIN_TOKEN, *S3_SERVER)
    return [
        Process("service", (python, "-m", "service"), Stage.API, stop_within=2, without=S3_SERVER),
        Process("worker", (python, "-m", "worker"), Stage.WORK, 5, copies=settings.workers, without=foreign),
        Process("scheduler", (python, "-m", "worker.scheduler"), Stage.WORK, 5, without=foreign),
        announcement(settings),
    ]


def announcement(settings: Settings) -> Process:
    """Return the process that says on stdout when the API is ready."""
    command = (sys.executable, "-m", "deploy.local.readiness", settings.host, str(settings.port), settings.public_url)
    return Process("readiness", command, Stage.WORK, stop_within=1, once=True, only=(*BASIC, *PYTHON))


def guard(folder: DataFolder) -> Process:
    """Return the process that ends all others if this one, the supervisor, is killed."""
    command = (sys.executable, "-m", "deploy.local.guard", "--parent", str(os.getpid()), folder.root)
    passed = (*BASIC, *PYTHON)
    return Process("guard", command, Stage.GUARD, 1, lock=folder.guard_lock, outlives=True, only=passed)
