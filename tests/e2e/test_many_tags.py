"""A repository of many tags, mirrored by two real workers."""

from __future__ import annotations

import json
from contextlib import ExitStack

from mirror.records.job import Job
from mirror.records.job_request import ImageRequest
from mirror.records.rules import ALL_TAGS
from tests.e2e.fleet import Fleet
from tests.support import images
from tests.support.fakes.lists import tag_pages
from tests.support.harness import mark_built

TAGS = tuple(f"v{n}" for n in range(240))
CHANGED = TAGS[::6]


def serve(fleet: Fleet, *tags: str, generation: int) -> None:
    for tag in tags:
        fleet.registry.put(images.image(images.layer(f"{tag} {generation}", 300)), "many/tags", tag)


def mirror_all(fleet: Fleet) -> Job:
    request = ImageRequest(f"{fleet.registry.host}/many/tags", tags=ALL_TAGS)
    return fleet.ended(fleet.submitter.submit([request])[0], within=300)


def copies_of(fleet: Fleet, job: Job) -> list[int]:
    """Return how many images of the job each worker has copied, by its log."""
    found = []
    for name in ("one", "two"):
        lines = [json.loads(line) for line in (fleet.logs / f"{name}.log").read_text().splitlines() if job.id in line]
        copied = [line for line in lines if line["event"] == "task succeeded" and line.get("digest")]
        found.append(len(copied))
    return found


def test_unchanged_tags_cost_one_request_and_changed_ones_are_spread_over_the_workers(fleet: Fleet) -> None:
    mark_built(fleet.redis)
    serve(fleet, *TAGS, generation=1)
    fleet.registry.script(tag_pages(TAGS))
    with ExitStack() as running:
        for process in (fleet.worker("one"), fleet.worker("two"), fleet.scheduler()):
            running.enter_context(process)
        first = mirror_all(fleet)
        assert (first.state, first.images.total, first.images.succeeded) == ("succeeded", len(TAGS), len(TAGS))

        fleet.registry.requests.clear()
        unchanged = mirror_all(fleet)
        assert (unchanged.images.total, unchanged.images.unchanged) == (len(TAGS), len(TAGS))
        assert len(fleet.store.tasks(unchanged.id, 1_000)) == 1
        assert len(fleet.registry.log("api", method="HEAD")) == len(TAGS)
        assert len(fleet.registry.log("api", path="/manifests/")) == len(TAGS)

        serve(fleet, *CHANGED, generation=2)
        changed = mirror_all(fleet)
        assert changed.state == "succeeded"
        assert changed.images.total - changed.images.unchanged == len(CHANGED)
        copies = copies_of(fleet, changed)
        assert sum(copies) == len(CHANGED)
        assert min(copies) > 0, copies
