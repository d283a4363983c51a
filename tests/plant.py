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
from mirror.jobs.submission import MOST_IMAGES, Submitter, Wanted
from mirror.queue import TaskQueue
from mirror.records.job import Job
from mirror.records.store import JobStore
from mirror.settings import Settings
from mirror.storage.bucket import Bucket
from mirror.storage.links import LinkStore
from tests.fakes.registry import FakeRegistry


def mark_built(index: CatalogIndex) -> None:
    """Let lists be answered, as after the rebuild of an empty bucket."""
    index.begin_rebuild("test")
    assert index.finish_rebuild("test")


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
        return self.submit_all((source, target))

    def submit_all(self, *images: tuple[str, str | None]) -> Job:
        """A job of several images, each given by the path of its source and its target."""
        return self.submitter.submit([Wanted(f"{self.registry.host}/{path}", target) for path, target in images])[0]

    def perform(self, job: Job, interruption: Interruption | None = None) -> Job:
        """Do the job's tasks as a worker would, with whatever queue entries they have now; the job after that."""
        for task in self.store.tasks(job.id, MOST_IMAGES):
            entry, stop = (task.id, task.fence), interruption or Interruption()
            for errand in self.performer.begin([entry], stop, claimed=lambda _: None):
                self.performer.mirror(errand)
        return self.store.job(job.id)

    def mirror(self, source: str, target: str | None = None) -> Job:
        return self.perform(self.submit(source, target))

    def stored(self) -> list[str]:
        """All keys of the bucket."""
        return sorted(self.bucket.keys(""))
