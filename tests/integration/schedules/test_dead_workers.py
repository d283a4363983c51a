from __future__ import annotations

import pytest

from mirror.queue import NORMAL
from mirror.records.states import LOSSES_ALLOWED
from mirror.redis import failures
from tests.integration.records.submitted import lose
from tests.integration.schedules.timeline import Timeline


@pytest.fixture
def old_redis(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let Redis have been up for longer than a lease, without a failure."""
    monkeypatch.setattr("mirror.redis.client.Redis.uptime", lambda _: 3600)
    monkeypatch.setattr(failures, "_OUTAGE_LOGS", {})


@pytest.mark.usefixtures("old_redis")
def test_a_schedule_whose_workers_died_runs_again_at_its_next_slot(timeline: Timeline) -> None:
    core = timeline.core
    timeline.create()
    timeline.pass_time(hours=1)
    [job] = timeline.jobs()
    for fence in range(LOSSES_ALLOWED):
        [task] = core.jobs.tasks(job.id, 1)
        [claim] = core.claims.claim([(task.id, fence, NORMAL)])
        assert claim is not None
        timeline.tick()
        assert timeline.read().open_run is not None
        lose(core.redis, task.id)
        core.reconciler.reconcile()
    [task] = core.jobs.tasks(job.id, 1)
    assert task.error is not None
    assert task.error.code == "WORKER_LOST"
    timeline.pass_time(hours=1)
    assert [run.state for run in timeline.runs()] == ["failed", "running"]
    assert timeline.read().health.consecutive_failures == 1
