"""Jobs of images whose targets exist: what they show, and what changes a tag at a chosen moment of a copy."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from mirror.oci.digest import Digest
from mirror.records.job import Job
from mirror.records.job_request import ImageRequest
from mirror.records.rules import CopyOptions
from mirror.records.task import Task
from mirror.storage.links import LinkStore
from tests.support import images
from tests.support.fakes.registry import Reply, Request
from tests.support.harness import Harness

OLD, NEW = images.image(images.layer("old")), images.image(images.layer("new"))


def submitted(harness: Harness, options: CopyOptions, *images: tuple[str, str]) -> Job:
    requests = [ImageRequest(f"{harness.registry.host}/{source}", target, options=options) for source, target in images]
    return harness.core.submitter.submit(requests)[0]


def mirrored(harness: Harness, options: CopyOptions, source: str = "team/app:v1", target: str = "prod/app:v1") -> Task:
    """Mirror one image and return its task."""
    return task_of(harness, harness.run_tasks(submitted(harness, options, (source, target))))


def task_of(harness: Harness, job: Job) -> Task:
    [task] = harness.jobs.tasks(job.id, 2)
    return task


def shown(harness: Harness, tag: str = "v1") -> Digest | None:
    return harness.core.links.current("prod/app", tag)


def code_of(task: Task) -> str | None:
    return task.error.code if task.error else None


def during_copy(harness: Harness, image: images.TestImage, action: Callable[[], object]) -> None:
    """Do something when the first blob of *image* is requested, before the response."""
    is_done = threading.Event()

    def act(request: Request, _: Reply) -> None:
        is_of_image = any(f"/blobs/{digest}" in request.path for digest in image.blobs)
        if is_of_image and not is_done.is_set():
            is_done.set()
            action()

    harness.registry.script(act)


def before_the_lock(harness: Harness, monkeypatch: pytest.MonkeyPatch, action: Callable[[], object]) -> None:
    """Do something when the first layer is linked: after the first look at the tag, and before it is locked."""
    link, once = LinkStore.link_layer, iter([True])

    def act(links: LinkStore, repository: str, digest: Digest) -> None:
        if next(once, False):
            action()
        link(links, repository, digest)

    monkeypatch.setattr(LinkStore, "link_layer", act)
