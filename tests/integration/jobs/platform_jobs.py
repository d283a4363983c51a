"""Jobs with rules for platforms: an index of three platforms, and one image mirrored with chosen rules."""

from __future__ import annotations

from mirror.catalog.entry import ImageEntry
from mirror.oci.digest import Digest
from mirror.oci.local_image import LocalImage
from mirror.oci.platform import PlatformPattern
from mirror.records.job import Job
from mirror.records.job_request import ImageRequest
from mirror.records.rules import CopyOptions, PlatformMode, PlatformRules
from mirror.records.task import Task
from mirror.storage import layout
from tests.support import images
from tests.support.harness import Harness, mark_built

INDEX = images.with_attestation(
    images.three_platforms("chosen"), next(iter(images.three_platforms("chosen").children.values()))
)
AMD64, ARM64, ARM, ATTESTATION = INDEX.children.values()
TARGET = LocalImage("team/app", "1")
MODES: list[tuple[PlatformMode, tuple[str, ...]]] = [
    ("all", ()),
    ("all", ("linux/amd64",)),
    ("sparse", ("linux/arm64", "linux/amd64")),
    ("rewrite", ("linux/arm64",)),
    ("rewrite", ("linux/arm64", "linux/amd64", "linux/arm")),
    ("single", ("linux/arm",)),
]


def with_index(harness: Harness) -> Harness:
    """Let team/app:1 be the index of three platforms. Return the harness, ready for jobs."""
    mark_built(harness.redis)
    harness.registry.put(INDEX, "team/app", "1")
    return harness


def rules(mode: PlatformMode, *only: str) -> PlatformRules:
    return PlatformRules(tuple(map(PlatformPattern.parse, only)), mode)


def submitted(harness: Harness, chosen: PlatformRules, target: str = "team/app:1", source: str = "team/app:1") -> Job:
    request = ImageRequest(f"{harness.registry.host}/{source}", target, options=CopyOptions(chosen))
    job, _ = harness.core.submitter.submit([request])
    return job


def run(
    harness: Harness, mode: PlatformMode, *only: str, target: str = "team/app:1", source: str = "team/app:1"
) -> Task:
    """Mirror with these rules. Return the task, which has ended."""
    job = harness.run_tasks(submitted(harness, rules(mode, *only), target, source))
    [task] = harness.jobs.tasks(job.id, 1)
    assert (job.digest, job.source_digest) == (task.digest, task.source_digest)
    return task


def asked(harness: Harness) -> list[str]:
    """Return the requests for manifests since the last call: HEAD or GET, and the tag or digest."""
    found = [f"{r.method} {r.path.rpartition('/')[2]}" for r in harness.registry.log("api", path="/manifests/")]
    harness.registry.requests.clear()
    return found


def entry(harness: Harness, tag: str = "1") -> ImageEntry:
    found = harness.core.index.entry("team/app", tag)
    assert found is not None
    return found


def revisions(harness: Harness, repository: str = "team/app") -> set[Digest]:
    parsed = map(layout.parse_revision_link, harness.stored())
    return {found[1] for found in parsed if found and found[0] == repository}


def rebuilt(harness: Harness) -> ImageEntry:
    harness.redis.call("FLUSHALL")
    assert harness.core.rebuilder.rebuild(lambda: True)
    return entry(harness)
