"""What the views work with: the core, and what the service alone adds to it. One application has one of each."""

from __future__ import annotations

from dataclasses import dataclass, field
from threading import BoundedSemaphore
from typing import Final, Self

from flask import Flask, current_app

from mirror.settings import Settings
from mirror.wiring import Core, build
from service.api.health.readiness import Readiness
from service.http.auth import RequestAuthenticator, admin_token
from service.v2.manifest_cache import ManifestCache

LOOKUPS: Final = 32
"""Pulls of one process that ask S3 at the same time. With no limit, a thousand concurrent pulls would all end late."""
_EXTENSION: Final = "image-mirror"


@dataclass(frozen=True, slots=True)
class Service:
    """One process of the API. Safe to share between its threads, not across a fork."""

    core: Core
    auth: RequestAuthenticator
    readiness: Readiness
    manifests: ManifestCache = field(default_factory=ManifestCache)
    lookups: BoundedSemaphore = field(default_factory=lambda: BoundedSemaphore(LOOKUPS))

    @classmethod
    def connect(cls, settings: Settings) -> Self:
        """Build all of it without opening a connection. Raises InvalidSettings without Redis, bucket or token."""
        return cls.of(build(settings))

    @classmethod
    def of(cls, core: Core) -> Self:
        return cls(core, RequestAuthenticator(core.settings, admin_token(core.settings)), Readiness(core))

    def install(self, app: Flask) -> None:
        """Make this the service of *app*."""
        app.extensions[_EXTENSION] = self

    def close(self) -> None:
        """Close every connection and end the threads that look at Redis and S3."""
        self.readiness.close()
        self.core.close()


def service() -> Service:
    """The service that handles the current request."""
    held: Service = current_app.extensions[_EXTENSION]
    return held


def core() -> Core:
    """The core of the service that handles the current request."""
    return service().core
