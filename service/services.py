"""What the views need, made once per process and handed to the application."""

from __future__ import annotations

from dataclasses import dataclass, field
from threading import BoundedSemaphore
from typing import Final, Self

from flask import current_app

from mirror.catalog.index import CatalogIndex
from mirror.catalog.publishing import Publisher
from mirror.catalog.reading import CatalogReader
from mirror.coordination.heartbeats import Heartbeats
from mirror.coordination.redis import BRISK, Redis, open_client
from mirror.jobs.steering import Steering
from mirror.jobs.submission import Submitter
from mirror.queue import TaskQueue
from mirror.records.store import JobStore
from mirror.settings import Settings
from mirror.storage.blobs import BlobStore
from mirror.storage.bucket import Bucket
from mirror.storage.kept import KeptStore
from service.admin_token import admin_token
from service.admission import FailureLimit
from service.manifest_cache import ManifestCache
from service.readiness import Readiness

EXTENSION: Final = "image-mirror"
LOOKUPS: Final = 32
"""Pulls of one process that ask S3 at the same time. A thousand that come together would all be answered at the end."""


@dataclass(frozen=True, slots=True)
class Services:
    """Safe to share between the threads of one process, not across a fork."""

    settings: Settings
    admin_token: str = field(repr=False)
    redis: Redis
    queue: TaskQueue
    bucket: Bucket
    jobs: JobStore
    submitter: Submitter
    steering: Steering
    index: CatalogIndex
    reader: CatalogReader
    publisher: Publisher
    blobs: BlobStore
    kept: KeptStore
    heartbeats: Heartbeats
    readiness: Readiness
    manifests: ManifestCache = field(default_factory=ManifestCache)
    lookups: BoundedSemaphore = field(default_factory=lambda: BoundedSemaphore(LOOKUPS))
    failures: FailureLimit = field(default_factory=FailureLimit)

    @classmethod
    def connect(cls, settings: Settings) -> Self:
        """Open no connection yet, so that the API starts without Redis and S3 and /readyz says what is missing.

        Raises InvalidSettings where Redis or the bucket is not named, or there is no token.
        """
        redis_url = require_stores(settings)
        redis = Redis.connect(redis_url, retries=BRISK)
        queue = TaskQueue(open_client(redis_url, retries=BRISK, decode_responses=False))
        return cls.over(settings, redis, queue, Bucket.from_settings(settings))

    @classmethod
    def over(cls, settings: Settings, redis: Redis, queue: TaskQueue, bucket: Bucket) -> Self:
        """All of them on stores that are there already."""
        jobs, index = JobStore(redis, retention=settings.job_retention), CatalogIndex(redis)
        return cls(
            settings=settings,
            admin_token=admin_token(settings),
            redis=redis,
            queue=queue,
            bucket=bucket,
            jobs=jobs,
            submitter=Submitter(jobs, queue, settings),
            steering=Steering(jobs, queue),
            index=index,
            reader=CatalogReader(bucket),
            publisher=Publisher(bucket, redis),
            blobs=BlobStore(bucket),
            kept=KeptStore(bucket),
            heartbeats=Heartbeats(redis),
            readiness=Readiness(redis, bucket, index, settings),
        )

    def close(self) -> None:
        """Close every connection and end the threads that look at Redis and S3."""
        self.readiness.close()
        self.redis.close()
        self.queue.rq.connection.close()
        self.bucket.close()


def require_stores(settings: Settings) -> str:
    """The URL of Redis; raises InvalidSettings where it or the bucket is not set."""
    settings.require_stores()
    return str(settings.redis_url)


def services() -> Services:
    """Those of the application that answers the current request."""
    held: Services = current_app.extensions[EXTENSION]
    return held
