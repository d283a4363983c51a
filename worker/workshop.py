"""Everything a worker works with, made once before the first fork: a work horse finds it in its memory.

Nothing here opens a connection when it is made, so parent and horse share none.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Self

from mirror.catalog.publishing import Publisher
from mirror.catalog.rebuilding import Rebuilder
from mirror.coordination.admission import SharedAdmission
from mirror.coordination.heartbeats import Heartbeats
from mirror.coordination.lease import Leases
from mirror.coordination.pins import Pins
from mirror.coordination.redis import BRISK, PATIENT, Redis, open_client
from mirror.copying.copier import Copier
from mirror.copying.interruption import pause, waking
from mirror.copying.memory import MemoryBudget
from mirror.jobs.keeping import ClaimKeeping
from mirror.jobs.performing import Performer
from mirror.jobs.reconciling import Reconciler
from mirror.jobs.storage_guard import StorageGuard
from mirror.jobs.sweeping import Sweeper
from mirror.queue import TaskQueue
from mirror.records.store import JobStore
from mirror.registry.client import RegistryClient
from mirror.settings import Settings
from mirror.storage.bucket import Bucket


@dataclass(frozen=True, slots=True)
class Workshop:
    """The parts of a worker and of a scheduler."""

    settings: Settings
    redis: Redis
    queue: TaskQueue
    leases: Leases
    admission: SharedAdmission
    heartbeats: Heartbeats
    bucket: Bucket
    rebuilder: Rebuilder
    performer: Performer
    reconciler: Reconciler
    sweeper: Sweeper

    @classmethod
    def equipped(cls, settings: Settings) -> Self:
        """Connect nothing yet; raises InvalidSettings where Redis or the bucket is not named."""
        settings.require_stores()
        redis_url = str(settings.redis_url)
        redis = Redis.connect(redis_url, retries=PATIENT)
        queue = TaskQueue(open_client(redis_url, retries=PATIENT, decode_responses=False))
        bucket = Bucket.from_settings(settings)
        store = JobStore(redis)
        keeping = ClaimKeeping(store, Pins(redis))
        publisher = Publisher(bucket, redis)
        brisk = Redis.connect(redis_url, retries=BRISK)
        admission = SharedAdmission(brisk, most=settings.registry_concurrency)
        source = RegistryClient.from_settings(settings, admission=admission, sleep=pause, wakers=waking)
        copier = Copier(source, bucket, redis, MemoryBudget(settings.memory_budget))
        return cls(
            settings=settings,
            redis=redis,
            queue=queue,
            leases=Leases(redis),
            admission=admission,
            heartbeats=Heartbeats(brisk),
            bucket=bucket,
            rebuilder=Rebuilder(bucket, redis, publisher),
            performer=Performer(
                store, queue, redis, keeping, publisher, source, bucket, copier, StorageGuard(bucket, redis)
            ),
            reconciler=Reconciler(store, queue, redis),
            sweeper=Sweeper(bucket, redis),
        )


@cache
def workshop() -> Workshop:
    """This process's workshop, from its environment."""
    return Workshop.equipped(Settings.load(Settings.require_stores))
