"""The result of the benchmark of serving: tables in Markdown for people, and JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Final

from bench.report import machine
from bench.serving.load import CLIENTS, Measurement, Row
from bench.serving.servers import CACHED, OURS, UNCACHED

_QUIET: Final = 1.0
"""The load average above which a run is marked."""
_REQUESTS: Final = "| request | server | req/s | p99 ms | CPU ms | S3's CPU ms |\n|---|---|---|---|---|---|"
_PULLS: Final = "| pulls | server | seconds | errors | p99 ms | CPU ms | S3's CPU ms |\n|---|---|---|---|---|---|---|"


@dataclass(frozen=True, slots=True)
class Report:
    """The medians of a run, by the row's title and the server's name.

    *load* is the load average of the machine before the run.
    """

    date: str
    load: float
    versions: Sequence[str]
    seed: int
    rounds: int
    pull_rounds: int
    rows: Sequence[Row]
    medians: Mapping[tuple[str, str], Measurement]

    def markdown(self) -> str:
        versions = "\n".join(f"- {line}" for line in self.versions)
        tables = [_table(head, self._lines(pulls=pulls)) for head, pulls in ((_REQUESTS, False), (_PULLS, True))]
        parts = [self._heading(), versions, *tables, self._comparison()]
        return "\n\n".join(part for part in parts if part) + "\n"

    def json(self) -> str:
        results = [{"row": row, "server": server, **asdict(one)} for (row, server), one in self.medians.items()]
        document = {
            "date": self.date,
            "machine": machine(),
            "load": self.load,
            "versions": list(self.versions),
            "seed": self.seed,
            "rounds": self.rounds,
            "pull_rounds": self.pull_rounds,
            "results": results,
        }
        return json.dumps(document, indent=2) + "\n"

    def _heading(self) -> str:
        generator = [one.client_ms for (title, _), one in self.medians.items() if not self._row(title).pulls]
        loaded = " **Other programs used the cores too, so times are too long.**" if self.load > _QUIET else ""
        cost = f"{min(generator):.2f} to {max(generator):.2f} ms" if generator else "not measured"
        return (
            f"{self.date}, {machine()}. Load average before the run: {self.load:.1f}.{loaded} {CLIENTS} clients at "
            f"once. Requests: median of {self.rounds}. Pulls: median of {self.pull_rounds}. The servers' order was shuffled "
            f"(seed {self.seed}), and every answer checked. CPU of the load generator for a request: {cost}."
        )

    def _lines(self, *, pulls: bool) -> Iterator[str]:
        for (title, server), one in self.medians.items():
            if bool(self._row(title).pulls) != pulls:
                continue
            speed = [f"{one.seconds:.1f}", str(one.errors)] if pulls else [f"{one.rate:.0f}"]
            name = f"**{server}**" if server == OURS else server
            cells = [title, name, *speed, f"{one.p99_ms:.0f}", f"{one.cpu_ms:.2f}", f"{one.s3_ms:.2f}"]
            yield f"| {' | '.join(cells)} |"

    def _comparison(self) -> str:
        """Compare Image Mirror with distribution, with and without its cache. A figure below 1 is in our favour."""
        lines: list[str] = []
        for row in self.rows:
            ours = self.medians.get((row.title, OURS))
            theirs = [self.medians.get((row.title, name)) for name in (CACHED, UNCACHED)]
            if ours and all(theirs):
                cells = [f"{ratio:.2f}" for peer in theirs if peer for ratio in _ratios(ours, peer)]
                lines.append(f"| {row.title} | {' | '.join(cells)} |")
        head = (
            "Image Mirror ÷ distribution. Less than 1 means that Image Mirror is cheaper or faster:\n\n"
            "| | CPU | time | CPU, no cache | time, no cache |\n|---|---|---|---|---|"
        )
        return _table(head, lines)

    def _row(self, title: str) -> Row:
        return next(row for row in self.rows if row.title == title)


def _table(head: str, lines: Iterable[str]) -> str:
    """Return the table, or nothing if it has no line."""
    found = list(lines)
    return "\n".join([head, *found]) if found else ""


def _ratios(ours: Measurement, theirs: Measurement) -> tuple[float, float]:
    return ours.cpu_ms / theirs.cpu_ms, theirs.rate / ours.rate
