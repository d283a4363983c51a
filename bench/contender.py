"""What takes part in the benchmark: something that copies images from a source into a bucket."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from bench.buckets import BucketServer
from bench.source import SourceImage

PATIENCE = 1800.0
"""Seconds that one copy may take before the benchmark gives up."""


class CopyFailed(Exception):
    """A contender did not copy; the message ends with what it said."""


@dataclass(frozen=True, slots=True)
class Site:
    """Where to copy from and to. *source* is ``host:port`` and *endpoint* a URL, both paced or both direct; *directory*
    is for the contender's own state, and lives as long as *bucket* does.
    """

    source: str
    endpoint: str
    bucket: str
    server: BucketServer
    directory: Path
    workers: int


class Copying(Protocol):
    """A contender that is up and waits for the word."""

    def copy(self, images: Sequence[SourceImage]) -> None:
        """Return once all are there, as its user would see it; raises CopyFailed."""
        ...

    def cpu(self) -> dict[str, float]:
        """CPU seconds so far of its ``own`` processes, and of the servers that it alone needs, by their name."""
        ...

    def memory(self) -> dict[str, list[int]]:
        """The processes to be weighed now, as roots of trees, grouped as in `cpu`."""
        ...


class Contender(Protocol):
    @property
    def name(self) -> str: ...

    def versions(self) -> Sequence[str]: ...

    def ready(self, site: Site) -> AbstractContextManager[Copying]:
        """Start what has to run before the clock does, and end it after the block."""
        ...
