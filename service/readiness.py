"""Whether the mirror can do its work: Redis and S3 are asked, briefly, and never by more than one thread at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotYet
from dataclasses import dataclass, field
from time import monotonic
from typing import Final

from mirror.catalog.index import CatalogIndex
from mirror.coordination.redis import Redis
from mirror.errors import MirrorError
from mirror.storage.bucket import Bucket

PATIENCE: Final = 2.0
"""Seconds a check may take before the answer says that it does not answer."""
_FRESH: Final = 1.0
"""Seconds for which an answer is given again, so that many probes are one question."""


@dataclass(frozen=True, slots=True)
class Finding:
    """``ok`` where the part does its work. ``warnings`` do not keep the mirror from its own."""

    ok: bool
    detail: str | None = None
    warnings: tuple[str, ...] = field(default=())


class Readiness:
    """The checks of one process."""

    def __init__(self, redis: Redis, bucket: Bucket, index: CatalogIndex) -> None:
        self._threads = ThreadPoolExecutor(3, thread_name_prefix="readiness")
        asked: Mapping[str, Callable[[], Finding]] = {
            "redis": lambda: _redis(redis),
            "s3": lambda: _s3(bucket),
            "catalog": lambda: _catalog(index),
        }
        self._checks = {name: _Check(ask, self._threads) for name, ask in asked.items()}

    def findings(self) -> dict[str, Finding]:
        """Of every part, within about `PATIENCE` seconds whatever hangs."""
        for check in self._checks.values():
            check.begin()
        deadline = monotonic() + PATIENCE
        return {name: check.finding(deadline) for name, check in self._checks.items()}

    def close(self) -> None:
        self._threads.shutdown(wait=True)


class _Check:
    """One question. While it is open nobody asks it again, however many wait for the answer."""

    def __init__(self, ask: Callable[[], Finding], threads: ThreadPoolExecutor) -> None:
        self._ask = ask
        self._threads = threads
        self._lock = threading.Lock()
        self._asked_at = 0.0
        self._open: Future[Finding] | None = None

    def begin(self) -> None:
        with self._lock:
            stale = monotonic() - self._asked_at > _FRESH
            if self._open is None or (self._open.done() and stale):
                self._asked_at = monotonic()
                self._open = self._threads.submit(self._answer)

    def finding(self, deadline: float) -> Finding:
        if self._open is None:
            raise RuntimeError("begin() comes first")
        try:
            return self._open.result(max(0.0, deadline - monotonic()))
        except NotYet:
            return Finding(ok=False, detail="It does not answer in time")

    def _answer(self) -> Finding:
        try:
            return self._ask()
        except MirrorError as error:
            return Finding(ok=False, detail=error.message)


def _redis(redis: Redis) -> Finding:
    redis.call("PING")
    return Finding(ok=True, warnings=tuple(redis.warnings()))


def _s3(bucket: Bucket) -> Finding:
    bucket.ping()
    return Finding(ok=True)


def _catalog(index: CatalogIndex) -> Finding:
    """Pulls work without the index, so an unfinished one is a warning."""
    if index.is_built():
        return Finding(ok=True)
    progress = index.progress()
    far = f": {progress.tags} tags done, up to {progress.repository}" if progress and progress.tags else ""
    warning = f"the index of images is being rebuilt from the bucket{far}; lists answer 503 until it is done"
    return Finding(ok=True, warnings=(warning,))
