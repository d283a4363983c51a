"""What the views work with: the core, and what the service alone adds to it. One application has one of each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Self

from flask import Flask, current_app

from mirror.catalog.checked import CheckedTags
from mirror.catalog.current_tags import CurrentTags
from mirror.redis.client import Redis
from mirror.settings import Settings
from mirror.storage.served_bucket import ServedBucket
from mirror.wiring import Core, build
from service.api.health.readiness import Readiness
from service.http.auth import RequestAuthenticator, admin_token
from service.v2.manifest_cache import ManifestCache
from service.v2.pulls import Pulls, checked_in_thread
from service.v2.referrer_entries import ReferrerEntries

_PULL_TIMEOUT: Final = 1.0
"""Seconds for which a pull waits for Redis. After that it asks S3. What can be shown without Redis waits no longer."""
_EXTENSION: Final = "image-mirror"


@dataclass(frozen=True, slots=True)
class Service:
    """One process of the API. Safe to share between its threads, not across a fork."""

    core: Core
    auth: RequestAuthenticator
    readiness: Readiness
    pulls: Pulls
    referrer_entries: ReferrerEntries
    checked: CheckedTags
    pull_redis: Redis

    @classmethod
    def connect(cls, settings: Settings) -> Self:
        """Build all of it without opening a connection. Raises InvalidSettings without Redis, bucket or token."""
        return cls.of(build(settings))

    @classmethod
    def of(cls, core: Core) -> Self:
        settings = core.settings
        redis = Redis.connect(str(settings.redis_url), retries=1, timeout=_PULL_TIMEOUT)
        bucket = ServedBucket(core.bucket, settings.s3_public_endpoint)
        pulls = Pulls(CurrentTags(redis), bucket, ManifestCache(), checked_in_thread)
        return cls(
            core=core,
            auth=RequestAuthenticator(settings, admin_token(settings)),
            readiness=Readiness(core),
            pulls=pulls,
            referrer_entries=ReferrerEntries(pulls),
            checked=CheckedTags(redis),
            pull_redis=redis,
        )

    def install(self, app: Flask) -> None:
        """Make this the service of *app*."""
        app.extensions[_EXTENSION] = self

    def close(self) -> None:
        """Close every connection and end the threads that look at Redis and S3."""
        self.readiness.close()
        self.pull_redis.close()
        self.core.close()


def service() -> Service:
    """The service that handles the current request."""
    held: Service = current_app.extensions[_EXTENSION]
    return held


def core() -> Core:
    """The core of the service that handles the current request."""
    return service().core
