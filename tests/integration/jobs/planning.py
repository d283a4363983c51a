"""Plans of images at the scripted registry: made, read and applied in this process."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from mirror.jobs.plan import apply_plan
from mirror.oci.digest import Digest
from mirror.records.job import Job, JobOptions
from mirror.records.job_request import ImageRequest
from mirror.records.plans import ImagePlan, Plan, plan_id_of
from mirror.records.rule_schemas import TAG_RULES
from mirror.records.rules import PLAIN_COPY, CopyOptions
from tests.support import images
from tests.support.fakes.lists import tag_pages
from tests.support.harness import Harness

PLAN: Final = JobOptions(kind="plan")


def submitted(harness: Harness, *sources: str, target: str | None = None, options: CopyOptions = PLAIN_COPY) -> Job:
    """Submit a plan of these images, each given by its path at the scripted registry."""
    requests = [ImageRequest(f"{harness.registry.host}/{source}", target, options=options) for source in sources]
    job, _ = harness.core.submitter.submit(requests, PLAN)
    return job


def planned(harness: Harness, *sources: str, target: str | None = None, options: CopyOptions = PLAIN_COPY) -> Plan:
    """Make a plan of these images."""
    job = harness.run_tasks(submitted(harness, *sources, target=target, options=options))
    return harness.core.plans.read(plan_id_of(job.id))


def found(harness: Harness, plan: Plan) -> list[ImagePlan]:
    """Return what is known of the images of a plan."""
    tasks, following = harness.core.plans.images(plan, limit=100)
    assert following is None
    read = [ImagePlan.of(task) for task in tasks]
    return [image for image in read if image]


def applied(harness: Harness, plan: Plan, options: JobOptions = JobOptions()) -> Job:  # noqa: B008 - a frozen value
    """Apply the plan and run its job."""
    job, _ = apply_plan(harness.core.plans, harness.jobs, harness.core.queue, plan.id, options)
    return harness.run_tasks(job)


def shown(harness: Harness, tag: str, path: str = "team/app") -> Digest | None:
    """Return what the tag shows under its default target."""
    return harness.core.links.current(f"{harness.registry.host.replace(':', '_')}/{path}", tag)


def job_bytes(harness: Harness, job: Job) -> list[int]:
    """Return the bytes that each task of a job has copied."""
    return [task.bytes_copied for task in harness.jobs.tasks(job.id, 100)]


def repository(harness: Harness, *, tags: Mapping[str, Any], options: JobOptions = PLAN) -> Job:
    """Plan, or mirror, tags of team/app with a worker."""
    request = ImageRequest(f"{harness.registry.host}/team/app", tags=TAG_RULES.load(dict(tags)))
    job, _ = harness.core.submitter.submit([request], options)
    return harness.run_work_horses(job)


def with_tags(harness: Harness, *tags: str) -> dict[str, images.TestImage]:
    """Let team/app have these tags, whose images share a layer. Return them."""
    shared = images.layer("shared", 5000)
    made = {tag: images.image(shared, images.layer(f"own {tag}", 100)) for tag in tags}
    for tag, image in made.items():
        harness.registry.put(image, "team/app", tag)
    harness.registry.script(tag_pages(list(tags)))
    return made
