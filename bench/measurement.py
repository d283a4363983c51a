"""What one copy took, and what several of the same took in the middle."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal

Rig = Literal["loopback", "capped"]
OURS = "ours"
"""The name of Image Mirror among the contenders; with settings other than the default it goes on with a hyphen."""
GB = 1_000_000_000
MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Case:
    """What is compared: one contender, one shape, one rig. *workers* is 1 for every peer."""

    rig: Rig
    shape: str
    contender: str
    workers: int = 1

    @property
    def is_ours(self) -> bool:
        return self.contender.partition("-")[0] == OURS

    @property
    def title(self) -> str:
        return self.contender if self.workers == 1 else f"{self.contender}, {self.workers} workers"


@dataclass(frozen=True, slots=True)
class Measurement:
    """One verified copy. *cpu* in seconds and *memory* in bytes (peak PSS), both by group; *rig_cpu* is what source, S3
    and proxy took of the same cores. Bytes on the way to and from S3 are known where the proxy counted them, and so is
    the peak of open connections to the source.
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
    """The median of a case's copies, field by field, and the spread of its time."""

    case: Case
    copies: int
    fastest: float
    slowest: float
    middle: Measurement
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


def _by_group(copies: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {group: median(copy[group] for copy in copies) for group in copies[0]}


def _known(values: Iterable[int | None]) -> int | None:
    known = [value for value in values if value is not None]
    return int(median(known)) if known else None
