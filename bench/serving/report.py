"""The result of the benchmark of serving: tables in Markdown for people, and JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Final

from bench.report import load_text, machine
from bench.serving.load import CLIENTS, Measurement, Row
from bench.serving.servers import OURS

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
        cost = f"{min(generator):.2f} to {max(generator):.2f} ms" if generator else "not measured"
        rounds = f"Requests: median of {self.rounds}. Pulls: median of {self.pull_rounds}."
        return (
            f"{self.date}, {machine()}. {load_text(self.load)} {CLIENTS} clients at once. {rounds} The servers' order "
            f"was shuffled (seed {self.seed}), and every answer checked. CPU of the load generator per request: {cost}."
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
        """Divide the figures of Image Mirror by those of each other server."""
        others = list(dict.fromkeys(server for _, server in self.medians if server != OURS))
        lines = []
        for row in self.rows:
            ours = self.medians.get((row.title, OURS))
            theirs = [self.medians.get((row.title, name)) for name in others]
            if ours and any(theirs):
                lines.append(f"| {row.title} | {' | '.join(_ratios(ours, peer) for peer in theirs)} |")
        columns = " | ".join(f"{name}: CPU | time" for name in others)
        title = "Image Mirror ÷ the other server. Less than 1 means that Image Mirror is cheaper or faster:"
        return _table(f"{title}\n\n| | {columns} |\n{'|---' * (1 + 2 * len(others))}|", lines)

    def _row(self, title: str) -> Row:
        return next(row for row in self.rows if row.title == title)


def _table(head: str, lines: Iterable[str]) -> str:
    """Return the table, or nothing if it has no line."""
    found = list(lines)
    return "\n".join([head, *found]) if found else ""


def _ratios(ours: Measurement, theirs: Measurement | None) -> str:
    if theirs is None:
        return "– | –"
    return f"{ours.cpu_ms / theirs.cpu_ms:.2f} | {theirs.rate / ours.rate:.2f}"
