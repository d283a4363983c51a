"""The measurement of one copy, and the summary of several copies of a case."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal

Rig = Literal["loopback", "capped"]
OURS = "ours"
"""The name of Image Mirror among the tools. With other settings than the default, a hyphen and a suffix follow."""
GB = 1_000_000_000
MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Case:
    """What is measured: one tool, one shape, one rig. *workers* is 1 for every peer."""

    rig: Rig
    shape: str
    tool: str
    workers: int = 1

    @property
    def is_ours(self) -> bool:
        return self.tool.partition("-")[0] == OURS

    @property
    def title(self) -> str:
        return self.tool if self.workers == 1 else f"{self.tool}, {self.workers} workers"


@dataclass(frozen=True, slots=True)
class Measurement:
    """One verified copy.

    *cpu* (seconds) and *memory* (peak PSS in bytes) are by group. *rig_cpu* is the CPU time of source, S3 and proxy on
    the same cores. Only the proxy counts the bytes to and from S3 and the peak of open connections to the source, so
    these are None without it.
    """

    seconds: float
    cpu: Mapping[str, float]
    memory: Mapping[str, int]
    rig_cpu: float
    source_requests: int
    source_bytes: int
    s3_requests: int
    s3_up: int | None = None
    s3_down: int | None = None
    source_connections: int | None = None


@dataclass(frozen=True, slots=True)
class Summary:
    """The median of a case's copies for each field, and the fastest and slowest time."""

    case: Case
    copies: int
    fastest: float
    slowest: float
    median: Measurement
    limit: float

    @classmethod
    def of(cls, case: Case, copies: Sequence[Measurement], limit: float) -> Summary:
        times = [copy.seconds for copy in copies]
        middle = Measurement(
            seconds=median(times),
            cpu=_by_group([copy.cpu for copy in copies]),
            memory={group: int(peak) for group, peak in _by_group([copy.memory for copy in copies]).items()},
            rig_cpu=median(copy.rig_cpu for copy in copies),
            source_requests=int(median(copy.source_requests for copy in copies)),
            source_bytes=int(median(copy.source_bytes for copy in copies)),
            s3_requests=int(median(copy.s3_requests for copy in copies)),
            s3_up=_known(copy.s3_up for copy in copies),
            s3_down=_known(copy.s3_down for copy in copies),
            source_connections=_known(copy.source_connections for copy in copies),
        )
        return cls(case, len(copies), min(times), max(times), middle, limit)


def percentile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that is not exceeded by *share* of all values (nearest rank)."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def _by_group(copies: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {group: median(copy[group] for copy in copies) for group in copies[0]}


def _known(values: Iterable[int | None]) -> int | None:
    known = [value for value in values if value is not None]
    return int(median(known)) if known else None
