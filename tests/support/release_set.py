"""Release sets for tests: tags of a mirror, the images that they show, and the images that a job stages for them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Self

import pytest

from mirror.copying.cancellation import Cancellation
from mirror.errors import WorkerLost
from mirror.jobs.release import StrandedReleases
from mirror.oci.digest import Digest
from mirror.oci.local_image import LocalImage
from mirror.queue import NORMAL
from mirror.records.job import Job, JobOptions
from mirror.records.job_request import ImageRequest
from mirror.records.rules import PLAIN_COPY, CopyOptions
from mirror.records.states import LOSSES_ALLOWED
from mirror.records.task import ErrorReport, Task
from mirror.redis import keys
from mirror.storage import layout
from mirror.storage.links import LinkStore
from mirror.storage.releases import ReleaseJournals
from tests.support import images
from tests.support.harness import Harness
from tests.support.servers.process import REPOSITORY

Shown = dict[str, Digest | None]


@dataclass
class ReleaseSet:
    """Tags ``team/app-<n>:1``, which show *old*, and whose sources have *new*. Tags that are new have no old image."""

    harness: Harness
    old: Shown = field(default_factory=dict)
    new: Shown = field(default_factory=dict)

    @classmethod
    def of(cls, harness: Harness, tags: int, *, fresh: int = 0, prefix: str = "team/app") -> Self:
        """Mirror the old images of *tags* tags, and put new ones at their sources. *fresh* more tags do not exist."""
        made = cls(harness)
        for number in range(tags + fresh):
            target = f"{prefix}-{number}:1"
            made.old[target] = made.move_source(target, "old") if number < tags else None
        if tags:
            job = harness.submit_all(*((made.source(target), target) for target in made.old if made.old[target]))
            assert harness.run_tasks(job).state == "succeeded"
        for target in made.old:
            made.new[target] = made.move_source(target, "new")
        return made

    @staticmethod
    def source(target: str) -> str:
        """The path of a tag's source at the registry."""
        return f"source/{target}"

    def move_source(self, target: str, what: str) -> Digest:
        """Let the source of a tag show another image."""
        image = images.image(images.layer(f"{target} {what}", 200))
        self.harness.registry.put(image, *self.source(target).split(":"))
        return image.digest

    def submit(self, *targets: str, options: CopyOptions = PLAIN_COPY) -> Job:
        """Submit an atomic job of all tags, or of *targets*."""
        requests = [
            ImageRequest(f"{self.harness.registry.host}/{self.source(target)}", target, options=options)
            for target in targets or self.new
        ]
        job, _ = self.harness.core.submitter.submit(requests, JobOptions(atomic=True))
        return job

    def run(self, *targets: str, options: CopyOptions = PLAIN_COPY) -> Job:
        return self.harness.run_tasks(self.submit(*targets, options=options))

    def staged(self, *targets: str, options: CopyOptions = PLAIN_COPY) -> tuple[Job, Task]:
        """Run a job up to its release. Return it and its release task."""
        job = self.submit(*targets, options=options)
        for task in self.harness.jobs.tasks(job.id, job.images.total):
            for claimed in self.harness.core.claimer.claim([(task.id, task.fence, NORMAL)], Cancellation()):
                self.harness.core.runner.run(claimed)
        return self.harness.jobs.job(job.id), self.release_task(job)

    def release_task(self, job: Job) -> Task:
        [task] = [task for task in self.harness.jobs.tasks(job.id, 2_000) if task.spec.kind == "release"]
        return task

    def shown(self) -> Shown:
        """What the tags show in the bucket."""
        names = [LocalImage.parse(target) for target in self.new]
        return {str(name): self.harness.core.links.current(*_name(name)) for name in names}

    def listed(self) -> Shown:
        """What the index lists for the tags."""
        found = self.harness.core.index.indexed([_name(LocalImage.parse(target)) for target in self.new])
        return {target: entry.digest if entry else None for target, entry in zip(self.new, found, strict=True)}

    def journals(self) -> list[str]:
        return list(self.harness.bucket.keys(layout.RELEASES_PREFIX))

    def is_whole(self) -> bool:
        return self.shown() in (self.old, self.new)

    def die(self, number: int, when: str, *what: object) -> bool:
        """Run a process that dies at the write *number* of a release. Return False if it made fewer writes."""
        command = [sys.executable, "-m", "tests.support.dying_release", str(number), when, *map(str, what)]
        settings = self.harness.core.settings
        environment = {**os.environ, "MIRROR_REDIS_URL": str(settings.redis_url)}
        ended = subprocess.run(
            command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=60, check=False
        )
        assert ended.returncode in (0, -signal.SIGKILL), ended.stderr
        return ended.returncode != 0

    def end_leases(self, job: Job) -> None:
        """Let the leases of the release and its tags expire, as they do 30 s after their holder died."""
        names = [_name(LocalImage.parse(target)) for target in self.new]
        self.harness.redis.call("DEL", keys.release_lease(job.id), *(keys.tag_lease(*name) for name in names))

    def lose(self, job: Job, times: int = 1) -> None:
        """Let the lease of the release task expire, so often, as the reconciler does."""
        task = self.release_task(job)
        for _ in range(times):
            self.harness.redis.call("ZADD", keys.TASKS_RUNNING, 1, task.id)
            self.harness.core.recovery.expire(task.id, ErrorReport.of(WorkerLost(task.id, LOSSES_ALLOWED)))

    def recover(self) -> None:
        """Do what the scheduler does for releases, without its wait."""
        core = self.harness.core
        StrandedReleases(core.jobs, ReleaseJournals(core.bucket), core.releaser, wait=0).finish(lambda: True)


def _name(image: LocalImage) -> tuple[str, str]:
    return image.repository, str(image.tag)


@contextmanager
def replaced_write(name: str, replacement: Any) -> Iterator[None]:
    """Let *replacement*, which is passed the real method of `LinkStore`, make its writes."""
    write = getattr(LinkStore, name)

    def replaced(*args: Any, **options: Any) -> None:
        store, *rest = args
        replacement(lambda *given, **more: write(store, *given, **more), *rest, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LinkStore, name, replaced)
        yield
