"""Measure what the schedules cost the scheduler: ``python -m bench.ticks``. See docs/how-to/size-workers.md.

Each row is the CPU time of this process and of Redis for one tick. Nothing is copied: the jobs stay queued.
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from time import perf_counter, process_time
from typing import Any, Final

import structlog

from mirror.records.schedule_schema import read_definition
from mirror.settings import Settings
from mirror.wiring import Core, build
from tests.support.servers import ValkeyServer

_REPEATS: Final = 50
_NOON: Final = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)
_LARGE: Final = 10_000


@dataclass(frozen=True)
class _Cost:
    """Milliseconds of a tick."""

    cpu: float
    redis: float
    wall: float


class _Bench:
    """A core whose wall clock stands still until it is set."""

    def __init__(self, url: str) -> None:
        self.clock = [_NOON]
        self.core: Core = build(Settings(redis_url=url, s3_bucket="unused"), now=lambda: self.clock[0])
        self.core.prepare()

    def create(self, name: str, **fields: Any) -> None:
        document = {"name": name, "cron": "0 * * * *", "job": {"source": "redis:7"}, **fields}
        self.core.schedules.create(read_definition(document))

    def tick(self) -> None:
        self.core.ticker.tick()

    def pass_time(self, **parts: float) -> None:
        self.clock[0] += timedelta(**parts)

    def measure(self, what: str, step: Callable[[], object], times: int = 1) -> None:
        """Print a row of the table: what one of some steps costs."""
        before = self._redis_seconds(), process_time(), perf_counter()
        for _ in range(times):
            step()
        after = process_time(), perf_counter()
        spent = [self._redis_seconds() - before[0], after[0] - before[1], after[1] - before[2]]
        redis, cpu, wall = (1000 * seconds / times for seconds in spent)
        sys.stdout.write(f"| {what} | {cpu:.1f} | {redis:.1f} | {wall:.1f} |\n")

    def _redis_seconds(self) -> float:
        found = self.core.redis.call("INFO", "cpu")
        return float(found["used_cpu_user"]) + float(found["used_cpu_sys"])


def _measure_many(bench: _Bench, count: int) -> None:
    """Measure ticks while *count* schedules exist, of which all are due at the full hour."""
    for number in range(count):
        bench.create(f"schedule-{number}")
    bench.tick()
    bench.measure(f"{count:,} schedules, none is due", bench.tick, _REPEATS)
    bench.pass_time(hours=1)
    bench.measure("the first of them start, one batch", bench.tick)
    bench.measure("all others start, until the last one", lambda: bench.core.ticker.run(lambda: True))
    bench.measure(f"{count:,} open runs, nothing to do", bench.tick, _REPEATS)
    bench.pass_time(days=-30)
    bench.measure(f"the clock was set back: {count:,} next slots", bench.tick)
    bench.pass_time(days=30)
    bench.measure(
        f"after a pause of 30 days: {count:,} slots that are skipped", lambda: bench.core.ticker.run(lambda: True)
    )
    for job in bench.core.jobs.page(limit=count, before=None, state="queued", source=None)[0]:
        bench.core.jobs.cancel(job.id)
    bench.measure(f"{count:,} runs end", bench.tick)


def _measure_large(bench: _Bench) -> None:
    """Measure a schedule with as many images as a job may have."""
    images = [{"source": f"registry.example.com/team/application-{number}:1.0"} for number in range(_LARGE)]
    bench.create("large", job={"images": images})
    bench.pass_time(hours=1)
    bench.measure(f"a job of {_LARGE:,} images starts", bench.tick)
    bench.pass_time(hours=1)
    bench.measure("its next slot is skipped", bench.tick)
    [job] = bench.core.jobs.page(limit=1, before=None, state="queued", source=None)[0]
    bench.core.jobs.cancel(job.id)
    bench.measure("its run ends", bench.tick)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--schedules", type=int, default=1000)
    chosen = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    sys.stdout.write("| tick | ms of CPU | ms of CPU in Redis | ms |\n| --- | ---: | ---: | ---: |\n")
    for measure in (lambda bench: _measure_many(bench, chosen.schedules), _measure_large):
        with tempfile.TemporaryDirectory() as folder, ValkeyServer(Path(folder), append_only=True) as server:
            bench = _Bench(server.url)
            with closing(bench.core):
                measure(bench)


if __name__ == "__main__":
    main()
