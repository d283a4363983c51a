"""What a later run over an unchanged image asks for, and which new referrers it notices."""

from __future__ import annotations

from datetime import timedelta

import pytest

from mirror.oci.referrer import CHILDREN_EVERY
from mirror.records.job import Job
from mirror.records.job_request import ImageRequest
from mirror.records.rules import TagRules
from mirror.records.task import ReferrerCounts
from mirror.storage import layout
from tests.integration.jobs.referrer_jobs import (
    AMD64,
    BILL,
    INDEX,
    SIGNED,
    SIGNED_CHILD,
    asked,
    attach,
    is_held,
    listed,
    listing,
    mirror,
    run,
    s3_server,
    succeeded,
)
from tests.support.fakes.docker_hub import PullLimit
from tests.support.fakes.registry import Reply
from tests.support.harness import Harness

__all__ = ["mirror", "s3_server"]


def test_a_signature_that_is_added_later_is_all_that_the_next_run_fetches(mirror: Harness) -> None:
    succeeded(run(mirror))
    attach(mirror.registry, INDEX, SIGNED)
    asked(mirror)
    task = succeeded(run(mirror))
    assert (task.unchanged, task.referrers) == (True, ReferrerCounts(copied=1))
    fetched = [one for one in asked(mirror) if one.startswith("GET manifests/")]
    wanted = [f"GET manifests/{SIGNED.digest}"]
    if not mirror.registry.referrers_api:
        wanted = [f"GET manifests/{listing(SIGNED).digest}", *wanted]
    assert fetched == wanted
    assert listed(mirror, INDEX) == {SIGNED.digest}
    assert is_held(mirror, SIGNED)
    again = succeeded(run(mirror))
    assert (again.unchanged, again.referrers) == (True, ReferrerCounts(unchanged=1))


def test_an_unchanged_image_that_the_bucket_has_lost_is_copied_again(mirror: Harness) -> None:
    succeeded(run(mirror))
    mirror.bucket.delete([layout.revision_link_key("team/app", INDEX.digest)])
    attach(mirror.registry, INDEX, SIGNED)
    task = succeeded(run(mirror))
    assert (task.unchanged, task.referrers) == (False, ReferrerCounts(copied=1))
    assert is_held(mirror, INDEX)
    assert listed(mirror, INDEX) == {SIGNED.digest}


def test_a_warm_run_without_referrers_asks_its_source_twice(mirror: Harness) -> None:
    succeeded(run(mirror))
    asked(mirror)
    task = succeeded(run(mirror))
    assert (task.unchanged, task.referrers) == (True, ReferrerCounts())
    look = f"GET referrers/{INDEX.digest}" if mirror.registry.referrers_api else "GET tags/list"
    requests = asked(mirror)
    assert sorted({"HEAD manifests/1", look}) == sorted(set(requests) - {"GET tags/list"} | {look})
    assert len(requests) <= 3 if mirror.registry.referrers_api else len(requests) == 2


def test_a_warm_run_with_referrers_reads_no_manifest(mirror: Harness) -> None:
    attach(mirror.registry, INDEX, SIGNED, BILL)
    attach(mirror.registry, AMD64, SIGNED_CHILD)
    succeeded(run(mirror))
    asked(mirror)
    task = succeeded(run(mirror))
    assert (task.unchanged, task.referrers) == (True, ReferrerCounts(unchanged=3))
    assert not [one for one in asked(mirror) if one.startswith("GET manifests/")]


def test_a_referrer_of_a_child_is_found_within_a_day(mirror: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    succeeded(run(mirror))
    attach(mirror.registry, AMD64, SIGNED_CHILD)
    if mirror.registry.referrers_api:
        assert succeeded(run(mirror)).referrers == ReferrerCounts()
    monkeypatch.setattr("mirror.oci.referrer.CHILDREN_EVERY", timedelta(0))
    assert timedelta(days=1) == CHILDREN_EVERY
    assert succeeded(run(mirror)).referrers == ReferrerCounts(copied=1)
    assert listed(mirror, AMD64) == {SIGNED_CHILD.digest}


def test_an_unchanged_image_does_not_succeed_while_its_referrers_cannot_be_listed(mirror: Harness) -> None:
    succeeded(run(mirror))
    part = "/referrers/" if mirror.registry.referrers_api else "/tags/list"
    mirror.registry.script(lambda request, _: Reply(429, {"Retry-After": "60"}) if part in request.path else None)
    task = run(mirror)
    assert (task.state, task.waiting_for and task.waiting_for.reason) == ("queued", "rate_limited")


def test_a_selection_notices_a_new_signature_of_an_unchanged_tag(mirror: Harness) -> None:
    mirror.registry.put(AMD64, "team/app", "2")
    rules = TagRules()
    source = f"{mirror.registry.host}/team/app"

    def expanded() -> Job:
        job, _ = mirror.core.submitter.submit([ImageRequest(source, None, rules)])
        return mirror.run_work_horses(job)

    assert expanded().referrers == ReferrerCounts()
    attach(mirror.registry, AMD64, SIGNED_CHILD)
    second = expanded()
    assert (second.state, second.referrers.copied, second.images.unchanged) == ("succeeded", 1, 2)
    repository = f"{mirror.registry.host.replace(':', '_')}/team/app"
    assert {one.digest for one in mirror.core.referrer_lists.listed(repository, AMD64.digest)} == {SIGNED_CHILD.digest}


def test_referrers_cost_pull_quota_once(harness: Harness) -> None:
    hub = PullLimit(10, window=3600)
    harness.registry.script(hub)
    harness.registry.put(AMD64, "team/app", "1")
    attach(harness.registry, AMD64, SIGNED_CHILD)
    assert succeeded(run(harness)).referrers == ReferrerCounts(copied=1)
    used = hub.used
    assert succeeded(run(harness)).referrers == ReferrerCounts(unchanged=1)
    assert (hub.used, hub.refused) == (used, 0)
