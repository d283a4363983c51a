"""Drift reports: what a run would change, before it does."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta

import pytest

from mirror.schedules.drift import Drift
from tests.integration.schedules.following import SOURCE, FollowedSource, counts
from tests.support.servers.s3 import RcloneS3

MINUTE = timedelta(minutes=1)


@pytest.fixture
def s3_server(rclone_s3: RcloneS3) -> RcloneS3:
    """These tests are about the source and Redis. Any S3 server will do."""
    return rclone_s3


def report(source: FollowedSource, max_age: timedelta = timedelta(seconds=-1)) -> Drift:
    """Return a report that is made now, by workers."""
    reports = source.core.drift_reports
    assert reports.report(source.schedule(), max_age) is None
    [plan, *_] = source.core.plans.page(limit=1, before=None)[0]
    source.harness.run_work_horses(plan.job)
    found = reports.report(source.schedule(), MINUTE)
    assert found is not None
    assert found.plan == plan.id
    return found


def test_a_report_says_what_a_run_would_change(source: FollowedSource) -> None:
    source.create(gone_for=1)
    found = report(source)
    assert (found.state, found.copy, found.delete, found.failed) == ("drifted", 3, 0, 0)
    source.next_run()
    found = report(source)
    assert (found.state, found.copy, found.gone) == ("in_sync", 0, {})

    source.publish("3.0")
    source.publish("latest", content="second")
    source.withdraw("1.0")
    found = report(source)
    assert (found.state, found.copy, found.delete, list(found.gone)) == ("drifted", 2, 0, [f"{SOURCE}:1.0"])
    assert source.known()[f"{SOURCE}:1.0"].missing == 0
    source.next_run()
    source.next_run()
    source.clock[0] += timedelta(days=1)
    found = report(source)
    assert (found.state, found.copy, found.delete, found.is_braked) == ("drifted", 0, 1, False)
    assert [run.upstream for run in source.runs()] == [counts(gone=1), counts(gone=1), counts()]
    source.next_run()
    assert report(source).state == "in_sync"


def test_moves_that_are_only_reported_are_drift(source: FollowedSource) -> None:
    source.create(on_delete_upstream="keep", on_move_upstream="report")
    source.next_run()
    source.publish("1.0", content="second")
    found = report(source)
    assert (found.state, found.copy, found.moved) == ("drifted", 0, 1)


def test_a_source_that_cannot_be_listed_is_unknown(source: FollowedSource) -> None:
    source.create()
    source.next_run()
    source.deny("/tags/list")
    found = report(source)
    assert (found.state, found.failed, found.gone) == ("unknown", 1, {})


def test_many_callers_start_one_plan_for_each_version(source: FollowedSource) -> None:
    source.create()
    reports = source.core.drift_reports
    with ThreadPoolExecutor(10) as pool:
        assert list(pool.map(lambda _: reports.report(source.schedule(), MINUTE), range(10))) == [None] * 10
    plans, _ = source.core.plans.page(limit=10, before=None)
    assert len(plans) == 1
    assert source.runs() == []
    definition = source.schedule().definition
    source.core.schedules.replace(source.schedule(), replace(definition, labels={"team": "base"}))
    assert reports.report(source.schedule(), MINUTE) is None
    assert len(source.core.plans.page(limit=10, before=None)[0]) == 2
