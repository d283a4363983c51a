"""Real workers and schedulers on two real stores, and a scripted registry to mirror from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mirror.jobs.submission import Submitter
from mirror.oci.local_image import LocalImage
from mirror.records.job import Job, JobState
from mirror.records.store import JobStore
from mirror.storage.bucket import Bucket
from mirror.storage.links import LinkStore
from tests.e2e.processes import Process, eventually
from tests.fakes.registry import FakeRegistry
from tests.servers import ValkeyServer

FINISHED: tuple[JobState, ...] = ("succeeded", "failed", "partial")


@dataclass
class Fleet:
    """Two stores, a scripted registry, and the means to start workers on them."""

    registry: FakeRegistry
    valkey: ValkeyServer
    store: JobStore
    submitter: Submitter
    bucket: Bucket
    environment: dict[str, str]
    logs: Path

    def worker(self) -> Process:
        return Process("worker", self.environment, self.logs / "worker.log")

    def scheduler(self) -> Process:
        return Process("worker.scheduler", self.environment, self.logs / "scheduler.log")

    def submit(self, source: str) -> Job:
        return self.submitter.submit(f"{self.registry.host}/{source}")

    def ended(self, job: Job, *, within: float) -> Job:
        def ask() -> Job | None:
            now = self.store.job(job.id)
            return now if now.state in FINISHED else None

        return eventually(ask, within=within, what=f"{job.source} has ended")

    def is_published(self, source: str) -> bool:
        image = LocalImage.parse(f"{self.registry.host.replace(':', '_')}/{source}")
        return LinkStore(self.bucket).current(image.repository, str(image.tag)) is not None
