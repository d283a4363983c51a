"""A whole mirror in one process: the core of a worker and a service, and a scripted registry to mirror from."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Self

from mirror.catalog.index import IndexRebuild
from mirror.copying.cancellation import Cancellation
from mirror.queue import NORMAL
from mirror.records.job import Job
from mirror.records.job_request import MOST_IMAGES, ImageRequest
from mirror.records.jobs import JobStore
from mirror.records.rules import CopyOptions
from mirror.redis.client import Redis
from mirror.settings import Settings
from mirror.storage.bucket import Bucket
from mirror.wiring import Core, build
from tests.support.fakes.registry import FakeRegistry
from tests.support.records import Records
from worker.task_pool import TaskPool


def mark_built(redis: Redis) -> None:
    """Mark the index as built, as after the rebuild of an empty bucket."""
    rebuild = IndexRebuild(redis)
    assert rebuild.finish(rebuild.begin())


@dataclass
class Harness:
    """The production wiring in this process. `run_tasks` runs a job's tasks as a worker does."""

    registry: FakeRegistry
    core: Core

    @classmethod
    def of(cls, registry: FakeRegistry, settings: Settings, bucket: Bucket) -> Self:
        """Build the core on *bucket*. Its registry client does not wait between attempts."""
        return cls(registry, build(settings, bucket=bucket, sleep=lambda _: None))

    def with_settings(self, **fields: Any) -> Self:
        """Build a second core on the same stores, with other settings."""
        return self.of(self.registry, replace(self.core.settings, **fields), self.bucket)

    @property
    def bucket(self) -> Bucket:
        return self.core.bucket

    @property
    def redis(self) -> Redis:
        return self.core.redis

    @property
    def jobs(self) -> JobStore:
        return self.core.jobs

    @property
    def records(self) -> Records:
        return Records.of(self.core)

    def submit(self, source: str, target: str | None = None) -> Job:
        """Submit a job of one image. *source* is a path at the scripted registry."""
        return self.submit_all((source, target))

    def submit_all(self, *images: tuple[str, str | None]) -> Job:
        """Submit a job of several images, each given by the path of its source and its target."""
        job, _ = self.core.submitter.submit(
            [ImageRequest(f"{self.registry.host}/{path}", target) for path, target in images]
        )
        return job

    def submit_with(self, options: CopyOptions, source: str, target: str | None = None) -> Job:
        """Submit a job of one image with *options*."""
        request = ImageRequest(f"{self.registry.host}/{source}", target, options=options)
        job, _ = self.core.submitter.submit([request])
        return job

    def run_tasks(self, job: Job, cancellation: Cancellation | None = None) -> Job:
        """Run the job's tasks with the queue entries that they have now. Return the job after that."""
        for task in self.jobs.tasks(job.id, MOST_IMAGES):
            for claimed in self.core.claimer.claim([(task.id, task.fence, NORMAL)], cancellation or Cancellation()):
                self.core.runner.run(claimed)
        return self.jobs.job(job.id)

    def reconcile(self) -> None:
        """Do what the scheduler does for tasks: find lost ones, and queue those whose wait is over."""
        self.core.reconciler.reconcile()
        self.core.reconciler.unpark()

    def take(self) -> tuple[str, int]:
        """Take one entry from the queue, as RQ does before it forks a work horse."""
        [(task_id, fence, _)] = self.core.queue.take(1)
        return task_id, fence

    def pool(self, cancellation: Cancellation | None = None, **limits: int) -> TaskPool:
        """Return the threads of a work horse in this process."""
        return TaskPool(self.core, cancellation or Cancellation(), **limits)

    def run_work_horses(self, job: Job) -> Job:
        """Run work horses until the queue is empty. Return the job after that."""
        while entries := self.core.queue.take(1):
            self.pool().run(*entries[0][:2])
        return self.jobs.job(job.id)

    def mirror(self, source: str, target: str | None = None) -> Job:
        return self.run_tasks(self.submit(source, target))

    def stored(self) -> list[str]:
        """Return all keys of the bucket."""
        return sorted(self.bucket.keys(""))
