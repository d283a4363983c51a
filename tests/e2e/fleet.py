"""Real workers and schedulers on real stores, with a scripted registry."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mirror.jobs.submit import Submitter
from mirror.locks.checkpoints import Checkpoints
from mirror.oci.digest import Digest
from mirror.oci.local_image import LocalImage
from mirror.records.job import Job
from mirror.records.job_request import ImageRequest
from mirror.records.jobs import JobStore
from mirror.records.states import JobState
from mirror.redis.client import Redis
from mirror.storage.bucket import Bucket
from mirror.storage.links import LinkStore
from tests.e2e.processes import Process, eventually
from tests.support.fakes.registry import FakeRegistry
from tests.support.servers import ValkeyServer

FINISHED: tuple[JobState, ...] = ("succeeded", "failed", "partial")


@dataclass
class Fleet:
    """Starts workers and submits jobs, on a Valkey, a bucket and a registry."""

    registry: FakeRegistry
    valkey: ValkeyServer
    redis: Redis
    store: JobStore
    submitter: Submitter
    bucket: Bucket
    environment: dict[str, str]
    logs: Path

    def worker(self, name: str = "worker") -> Process:
        """Return a worker to start, with its log in a file of that name."""
        return Process("worker", self.environment, self.logs / f"{name}.log")

    def scheduler(self) -> Process:
        return Process("worker.scheduler", self.environment, self.logs / "scheduler.log")

    def submit(self, source: str) -> Job:
        return self.submitter.submit([ImageRequest(f"{self.registry.host}/{source}")])[0]

    def ended(self, job: Job, *, within: float) -> Job:
        def ask() -> Job | None:
            now = self.store.job(job.id)
            return now if now.state in FINISHED else None

        return eventually(ask, within=within, what=f"{job.spec} has ended")

    def frontier(self, digest: Digest) -> int:
        """Return the number of parts of the blob in its checkpoint, or 0."""
        found = Checkpoints(self.redis).load(digest)
        return found.frontier if found else 0

    def wait_for_frontier(self, digest: Digest, parts: int) -> None:
        """Wait until the blob's checkpoint has that many parts."""
        eventually(lambda: self.frontier(digest) >= parts, within=60, what=f"the checkpoint has {parts} parts")

    def is_published(self, source: str) -> bool:
        image = LocalImage.parse(f"{self.registry.host.replace(':', '_')}/{source}")
        return LinkStore(self.bucket).current(image.repository, str(image.tag)) is not None
