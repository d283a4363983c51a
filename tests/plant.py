"""A whole mirror in one process: what a worker and a service have, and a scripted registry to mirror from."""

from __future__ import annotations

from dataclasses import dataclass

from mirror.catalog.index import CatalogIndex
from mirror.catalog.publishing import Publisher
from mirror.catalog.reading import CatalogReader
from mirror.coordination.redis import Redis
from mirror.copying.interruption import Interruption
from mirror.jobs.performing import Performer
from mirror.jobs.reconciling import Reconciler
from mirror.jobs.submission import Submitter
from mirror.queue import TaskQueue
from mirror.records.job import Job
from mirror.records.store import JobStore
from mirror.settings import Settings
from mirror.storage.bucket import Bucket
from mirror.storage.links import LinkStore
from tests.fakes.registry import FakeRegistry


@dataclass
class Plant:
    """Everything a worker and a service have, in this process; a task is performed by calling `perform`."""

    registry: FakeRegistry
    settings: Settings
    bucket: Bucket
    redis: Redis
    store: JobStore
    queue: TaskQueue
    submitter: Submitter
    reconciler: Reconciler
    publisher: Publisher
    reader: CatalogReader
    index: CatalogIndex
    links: LinkStore
    performer: Performer

    def submit(self, source: str, target: str | None = None) -> Job:
        """*source* is a path at the fake registry."""
        return self.submitter.submit(f"{self.registry.host}/{source}", target)[0]

    def perform(self, job: Job, interruption: Interruption | None = None) -> Job:
        """Do the job's one task as a worker would, with whatever queue entry it has now; the job after that."""
        [task] = self.store.tasks(job.id, 1)
        self.performer.perform(task.id, task.fence, interruption or Interruption(), claimed=lambda _: None)
        return self.store.job(job.id)

    def mirror(self, source: str, target: str | None = None) -> Job:
        return self.perform(self.submit(source, target))

    def stored(self) -> list[str]:
        """All keys of the bucket."""
        return sorted(self.bucket.keys(""))
