"""A schedule, and plans of it that end as a test says."""

from __future__ import annotations

from typing import Final

from mirror.records.claims import Outcome
from mirror.records.plans import ImagePlan
from mirror.records.task import ErrorReport
from mirror.wiring import Core

NIGHTLY: Final = {"name": "nightly", "cron": "0 3 * * *", "job": {"source": "registry.example/team/app:1"}}
COPY: Final = Outcome(plan=ImagePlan("copy", "The mirror has no such target yet.", bytes_to_copy=1).fields())
UNCHANGED: Final = Outcome(plan=ImagePlan("unchanged", "The target shows this image already.").fields())
FAILED: Final = Outcome(error=ErrorReport("SOURCE_FAILED", "The registry failed", retryable=True, hint=""))


def end_plan(core: Core, outcome: Outcome) -> bool:
    """End the plan that waits, as a worker does. Return whether there was one."""
    entries = core.queue.take(1)
    for claim in core.claims.claim(entries):
        assert claim is not None
        assert core.claims.settle("failed" if outcome.error else "succeeded", [(claim, outcome)]) == [True]
    return bool(entries)
