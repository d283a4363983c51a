"""The result of a run: tables in Markdown for people, and JSON for programs."""

from __future__ import annotations

import json
import platform
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Final

from bench.floor import Floor
from bench.measurement import GB, MIB, Rig, Summary
from bench.servers import LATENCY_MS
from bench.source import LoadedShape

_HEAD: Final = (
    "| what | who | seconds | spread | MB/s | CPU s/GB | with its servers | peak MiB | with its servers "
    "| requests: source, S3 | MB: source, to S3, from S3 | limit s | all CPU ÷ cores, s |\n" + "|---" * 13 + "|"
)
_IDLE: Final = 1.0
BEGIN: Final = "<!-- {name}: written by {command} --publish {name} -->"
END: Final = "<!-- end of {name} -->"


@dataclass(frozen=True, slots=True)
class Report:
    """The result of a whole run."""

    date: str
    floor: Floor
    versions: Sequence[str]
    rounds: int
    seed: int
    scale: float
    summaries: Sequence[Summary]
    shapes: dict[str, LoadedShape]

    def markdown(self) -> str:
        parts = [self._heading(), *self._tables(), self._verdict()]
        return "\n\n".join(part for part in parts if part) + "\n"

    def json(self) -> str:
        document = {
            "date": self.date,
            "machine": machine(),
            "versions": list(self.versions),
            "floor": {**asdict(self.floor), "cpu_per_gb": self.floor.cpu_per_gb},
            "rounds": self.rounds,
            "seed": self.seed,
            "scale": self.scale,
            "bytes": {name: loaded.bytes_to_copy for name, loaded in self.shapes.items()},
            "results": [asdict(summary) for summary in self.summaries],
        }
        return json.dumps(document, indent=2) + "\n"

    def _heading(self) -> str:
        scaled = f" **Layers {self.scale:g} times their size: no result, only a trial.**" if self.scale != 1 else ""
        return (
            f"{self.date}, {machine()}. Median of {self.rounds}, order shuffled (seed {self.seed}), every copy "
            f"verified.{scaled} CPU floor {self.floor.cpu_per_gb:.2f} s/GB: SHA-256 {GB / self.floor.hash_rate:.2f}, "
            f"a bare receive and send {self.floor.relay:.2f}.\n\n" + "\n".join(f"- {line}" for line in self.versions)
        )

    def _tables(self) -> list[str]:
        return [
            "\n".join([f"### {self._title(rig)}\n", _HEAD, *(self._row(summary) for summary in group)])
            for rig, group in groupby(self.summaries, key=lambda summary: summary.case.rig)
        ]

    def _title(self, rig: Rig) -> str:
        if rig == "loopback":
            return "Loopback, uncapped"
        rate = self.floor.rate // 1_000_000
        return f"Capped: {rate} MB/s per connection and direction, {LATENCY_MS} ms per round trip"

    def _row(self, summary: Summary) -> str:
        loaded, middle = self.shapes[summary.case.shape], summary.median
        total = loaded.bytes_to_copy
        own, with_servers = middle.cpu["own"], sum(middle.cpu.values())
        cpu = [f"{seconds / (total / GB):.2f}" if total else f"{seconds:.2f} s" for seconds in (own, with_servers)]
        cells = [
            loaded.shape.title,
            f"**{summary.case.title}**" if summary.case.is_ours else summary.case.title,
            f"{middle.seconds:.2f}",
            f"{summary.fastest:.2f}–{summary.slowest:.2f}",
            f"{total / middle.seconds / 1e6:.0f}" if total else "–",
            *cpu,
            *(f"{peak / MIB:.0f}" for peak in (middle.memory["own"], sum(middle.memory.values()))),
            f"{middle.source_requests}, {middle.s3_requests}",
            ", ".join(_megabytes(amount) for amount in (middle.source_bytes, middle.s3_up, middle.s3_down)),
            f"{summary.limit:.2f}" if total else "–",
            f"{(sum(middle.cpu.values()) + middle.rig_cpu) / self.floor.cores:.2f}",
        ]
        return f"| {' | '.join(cells)} |"

    def _verdict(self) -> str:
        """Compare Image Mirror with the fastest peer of each comparison."""
        lines = []
        for (rig, shape), group in groupby(self.summaries, key=lambda one: (one.case.rig, one.case.shape)):
            compared = list(group)
            theirs = [one for one in compared if not one.case.is_ours]
            best = min(theirs, key=lambda one: one.median.seconds, default=None)
            lines += [
                f"| {rig} | {self.shapes[shape].shape.title} | {one.case.title} | {best.case.title} "
                f"| {best.median.seconds / one.median.seconds:.2f} |"
                for one in compared
                if best and one.case.is_ours
            ]
        head = (
            "### Against the fastest peer\n\n| rig | what | who | fastest peer | times as fast |\n|---|---|---|---|---|"
        )
        return "\n".join([head, *lines]) if lines else ""


def machine() -> str:
    """Return cores, model, memory and kernel of this machine, but not its name."""
    model = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    memory = re.search(r"^MemTotal:\s*(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE)
    cores = Path("/proc/cpuinfo").read_text().count("processor\t:")
    size = f", {int(memory.group(1)) / 1024 / 1024:.0f} GiB" if memory else ""
    return f"{cores} cores of {model.group(1) if model else platform.machine()}{size}, Linux {platform.release()}"


def load_text(load: float) -> str:
    """Return a sentence about the load average *load* before a run, with a mark if the machine was not idle."""
    mark = " **Other programs used the cores too, so times are too long.**" if load > _IDLE else ""
    return f"Load average before the run: {load:.1f}.{mark}"


def publish(markdown: str, page: Path, name: str, command: str = "bench/run") -> None:
    """Replace the text between the page's markers for *name* with the result of *command*.

    Raises ValueError, and changes nothing, if the page has no such markers.
    """
    begin, end = BEGIN.format(name=name, command=command), END.format(name=name)
    before, found, rest = page.read_text().partition(begin)
    _, ended, after = rest.partition(end)
    if not (found and ended):
        raise ValueError(f"{page.name} has no place for {name}")
    page.write_text(f"{before}{begin}\n{markdown}\n{end}{after}")


def _megabytes(amount: int | None) -> str:
    return "–" if amount is None else f"{amount / 1e6:.1f}"
