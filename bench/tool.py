"""A tool that the benchmark measures: it copies images into a bucket."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from bench.servers import BucketServer
from bench.source import SourceImage

COPY_TIMEOUT = 1800.0
"""Seconds that one copy may take before the benchmark gives up."""


class CopyFailed(Exception):
    """A tool failed to copy. The message ends with the tool's own output."""


@dataclass(frozen=True, slots=True)
class Site:
    """Where to copy from and to.

    *source* is ``host:port`` and *endpoint* a URL, either both through the pacing proxy or both direct. *directory* is
    for the tool's own state, and is kept as long as *bucket*.
    """

    source: str
    endpoint: str
    bucket: str
    server: BucketServer
    directory: Path
    workers: int


class ReadyTool(Protocol):
    """A tool that runs and is ready to copy."""

    def copy(self, images: Sequence[SourceImage]) -> None:
        """Copy the images. Return when the tool's user would see that all are there.

        Raises CopyFailed.
        """
        ...

    def cpu(self) -> dict[str, float]:
        """Return the CPU seconds so far, by group.

        The groups are its ``own`` processes, and each server that only it needs.
        """
        ...

    def memory(self) -> dict[str, list[int]]:
        """Return the roots of the process trees whose memory counts, by group."""
        ...


class Tool(Protocol):
    """A tool to measure."""

    @property
    def name(self) -> str: ...

    def versions(self) -> Sequence[str]: ...

    def ready(self, site: Site) -> AbstractContextManager[ReadyTool]:
        """Start what must run before the measurement, and stop it after the block."""
        ...
