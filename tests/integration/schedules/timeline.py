"""Schedules whose clock a test sets, and whose jobs end as it says."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from mirror.queue import NORMAL
from mirror.records.claims import Outcome
from mirror.records.job import Job
from mirror.records.run import Run
from mirror.records.schedule import Schedule
from mirror.records.schedule_schema import read_definition
from mirror.records.task import ErrorReport
from mirror.redis import keys
from mirror.wiring import Core
from tests.integration.records.submitted import LOST

HOURLY: Mapping[str, Any] = {"name": "hourly", "cron": "0 * * * *", "job": {"source": "redis:7"}}


def job_of(names: Sequence[str]) -> dict[str, Any]:
    """Return a request for a job of several images."""
    return {"images": [{"source": name} for name in names]}


@dataclass
class Timeline:
    core: Core
    clock: list[datetime]

    @property
    def now(self) -> datetime:
        return self.clock[0]

    def create(self, **fields: Any) -> Schedule:
        return self.core.schedules.create(read_definition({**HOURLY, **fields}))

    def read(self, name: str = "hourly") -> Schedule:
        return self.core.schedules.store.schedule(name)

    def break_definition(self, name: str, **fields: Any) -> None:
        """Change the record of a schedule to what this release would have refused."""
        key = keys.schedule(self.read(name).id)
        definition = {**json.loads(self.core.redis.call("HGET", key, "definition")), **fields}
        self.core.redis.call("HSET", key, "definition", json.dumps(definition))

    def pass_time(self, **parts: float) -> None:
        """Set the clock and tick once, as a scheduler that was away until then."""
        self.clock[0] += timedelta(**parts)
        self.tick()

    def tick(self) -> None:
        self.core.ticker.run(lambda: True)

    def runs(self, name: str = "hourly") -> list[Run]:
        """The runs of a schedule, the oldest first."""
        return self.core.schedules.runs.runs(self.read(name), limit=100)[::-1]

    def jobs(self) -> list[Job]:
        """All jobs, the oldest first."""
        return self.core.jobs.page(limit=1000, before=None, state=None, source=None)[0][::-1]

    def finish(self, error: ErrorReport | None = None) -> None:
        """Let a worker end every job that has not ended, and the next tick notice it."""
        for job in self.jobs():
            if job.state in ("queued", "running"):
                for task in self.core.jobs.tasks(job.id, 1000):
                    [claim] = self.core.claims.claim([(task.id, task.fence, NORMAL)])
                    assert claim is not None
                    state = "failed" if error else "succeeded"
                    assert self.core.claims.settle(state, [(claim, Outcome(error=error))]) == [True]
        self.tick()

    def fail(self) -> None:
        self.finish(LOST)
