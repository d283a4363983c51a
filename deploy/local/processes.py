"""What `make run` starts, as data: one `Process` per program."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

from mirror.settings import Settings


class Stage(IntEnum):
    """When a process starts and stops: stages start in ascending order, all at once, and stop in descending order,
    each only after the one before has ended. Redis is last: workers hand their tasks over to it."""

    REDIS = 10
    S3 = 20
    API = 30
    WORK = 40


@dataclass(frozen=True, slots=True)
class Process:
    """A program that runs in *copies*, and is started again when it ends unless it runs *once*.

    It gets SIGTERM and *stop_within* seconds to end; then all that is left of its process group is killed.
    """

    name: str
    command: Sequence[str | Path]
    stage: Stage
    stop_within: int
    copies: int = 1
    lock: Path | None = None
    once: bool = False


def product(settings: Settings) -> list[Process]:
    """The processes of Image Mirror itself."""
    return [
        Process("service", (sys.executable, "-m", "service"), Stage.API, stop_within=2),
        Process("worker", (sys.executable, "-m", "worker"), Stage.WORK, stop_within=5, copies=settings.workers),
        Process("scheduler", (sys.executable, "-m", "worker.scheduler"), Stage.WORK, stop_within=5),
        announcement(settings),
    ]


def announcement(settings: Settings) -> Process:
    """Says on stdout when the API is ready."""
    command = (sys.executable, "-m", "deploy.local.readiness", settings.host, str(settings.port), settings.public_url)
    return Process("readiness", command, Stage.WORK, stop_within=1, once=True)
