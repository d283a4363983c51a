"""Check whether the mirror can do its work. Redis and S3 are asked briefly, and by one thread at a time.

The checks write, too. With a full disk, with full memory and on a replica, reads work as if nothing were wrong.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotYet
from dataclasses import dataclass, field, replace
from math import inf
from time import monotonic
from typing import Final, Literal
from urllib.parse import urlsplit

import structlog

from mirror.catalog.index import CatalogIndex
from mirror.errors import MirrorError, RedisUnavailable
from mirror.jobs.storage_guard import LARGEST_PROBE
from mirror.records.processes import Kind, LiveProcess, LiveProcesses
from mirror.redis import keys
from mirror.redis.client import Redis
from mirror.schedules.converge import Converger
from mirror.schedules.health import HealthSummary, summarize
from mirror.schedules.schedules import Schedules
from mirror.settings import Settings, is_loopback
from mirror.storage.bucket import Bucket
from mirror.storage.disk import LocalDisk
from mirror.throttling.storage_breaker import StorageBreaker
from mirror.wiring import Core

PATIENCE: Final = 2.0
"""Seconds that a check may take. After that it counts as failed."""
_FRESH: Final = 1.0
"""Seconds for which a result is reused, so that many probes cause one check."""
_REDIS_WRITE_SECONDS: Final = 10.0
_S3_WRITE_SECONDS: Final = 30.0
"""Seconds between two writes that succeed. In a bucket with versions each one stays."""
_FAILED_WRITE_SECONDS: Final = 5.0
_SCHEDULES_SECONDS: Final = 10.0
"""Seconds for which a summary of all schedules is reused. One of 10 000 takes 20 round trips and about 0.1 s."""
_SCHEDULES_NAMED: Final = 20
_UNKNOWN: Final = "it is not known how this is: Redis did not respond in time"
_LOG = structlog.get_logger(__name__)
_MISSING: Final[Mapping[Kind, str]] = {
    "worker": "No worker is alive: jobs wait until one is started. Pulls work meanwhile",
    "scheduler": "No scheduler is alive: jobs that wait or lost their worker stay as they are. Pulls work meanwhile",
}


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of a check. ``degraded`` means that something is missing that pulls do not need.

    ``warnings`` do not change the status. ``free_bytes`` are those of an embedded server's disk. ``schedules`` counts
    them by the state of their health.
    """

    status: Literal["ok", "degraded", "failed"]
    detail: str | None = None
    warnings: tuple[str, ...] = ()
    free_bytes: int | None = None
    processes: tuple[LiveProcess, ...] | None = None
    schedules: Mapping[str, int] | None = None


class Readiness:
    """The checks of one process."""

    def __init__(self, core: Core) -> None:
        checks: Mapping[str, Callable[[], Finding]] = {
            "redis": _RedisCheck(core.redis, _disk_of_redis(core.settings)).finding,
            "s3": _S3Check(core.bucket, core.storage_breaker).finding,
            "catalog": lambda: _catalog(core.index),
            "workers": lambda: _alive(core.processes, "worker"),
            "scheduler": lambda: _alive(core.processes, "scheduler"),
            "schedules": _SchedulesCheck(core.schedules).finding,
            "sync_file": lambda: _sync_file(core.converger),
        }
        # A check serves many requests, so its log lines carry no request id.
        self._threads = ThreadPoolExecutor(
            len(checks), thread_name_prefix="readiness", initializer=structlog.contextvars.clear_contextvars
        )
        unknown = dict.fromkeys(("schedules", "sync_file"), Finding("ok", warnings=(_UNKNOWN,)))
        self._checks = {name: _Check(name, ask, self._threads, unknown.get(name)) for name, ask in checks.items()}

    def begin(self) -> None:
        """Start all checks without waiting, so that the log says at the start what is missing."""
        for check in self._checks.values():
            check.begin()

    def findings(self) -> dict[str, Finding]:
        """Return the result of every check within about `PATIENCE` seconds, even if a store hangs."""
        self.begin()
        deadline = monotonic() + PATIENCE
        return {name: check.finding(deadline) for name, check in self._checks.items()}

    def close(self) -> None:
        self._threads.shutdown(wait=True)


class _Check:
    """One check. It runs at most once at a time, however many requests wait for it.

    *unknown* is the finding of one that takes too long. By default it counts as failed.
    """

    def __init__(
        self, name: str, ask: Callable[[], Finding], threads: ThreadPoolExecutor, unknown: Finding | None = None
    ) -> None:
        self._name = name
        self._ask = ask
        self._threads = threads
        self._unknown = unknown or Finding("failed", "It does not answer in time")
        self._lock = threading.Lock()
        self._asked_at = 0.0
        self._open: Future[Finding] | None = None
        self._logged: str | None = None

    def begin(self) -> None:
        with self._lock:
            stale = monotonic() - self._asked_at > _FRESH
            if self._open is None or (self._open.done() and stale):
                self._asked_at = monotonic()
                self._open = self._threads.submit(self._run)

    def finding(self, deadline: float) -> Finding:
        if self._open is None:
            raise RuntimeError("begin() comes first")
        try:
            return self._open.result(max(0.0, deadline - monotonic()))
        except NotYet:
            return self._unknown

    def _run(self) -> Finding:
        try:
            found = self._ask()
        except RedisUnavailable as error:  # the Redis client logs this itself
            return Finding("failed", error.message)
        except MirrorError as error:
            found = Finding("failed", error.message)
        self._log_change(found.detail if found.status == "failed" else None)
        return found

    def _log_change(self, reason: str | None) -> None:
        """Log the beginning and the end of a failure."""
        if reason and self._logged is None:
            _LOG.warning("readiness check failed", check=self._name, reason=reason)
        elif reason is None and self._logged:
            _LOG.info("readiness check passes again", check=self._name)
        self._logged = reason


@dataclass(slots=True)
class _WriteProbe:
    """A write that is repeated only now and then, because it costs something. A failed one is repeated sooner."""

    write: Callable[[int], object]
    every: float
    _at: float = -inf
    _size: int = 0
    _error: MirrorError | None = field(default=None)

    def require(self, size: int = 0) -> None:
        """Raise the error of the last write of at least *size* bytes, if it failed."""
        age = monotonic() - self._at
        if self._error is not None and age < _FAILED_WRITE_SECONDS:
            raise self._error.with_traceback(None)
        if self._error is None and age < self.every and size <= self._size:
            return
        self._at, self._size, self._error = monotonic(), size, None
        try:
            self.write(size)
        except MirrorError as error:
            self._error = error
            raise


class _RedisCheck:
    def __init__(self, redis: Redis, disk: LocalDisk | None) -> None:
        self._redis = redis
        self._disk = disk
        self._probe = _WriteProbe(lambda _: redis.call("SET", keys.PROBE, 1, "EX", 60), _REDIS_WRITE_SECONDS)

    def finding(self) -> Finding:
        free = self._disk.free() if self._disk else None
        try:
            self._redis.call("PING")
            self._probe.require()
            return Finding("ok", warnings=tuple(self._redis.warnings()), free_bytes=free)
        except RedisUnavailable as error:
            detail = error.message
            if self._disk and self._disk.lacks(0):  # a Valkey that syncs every write exits when it cannot
                detail = f"{detail}; its disk is full: {self._disk.described()}"
            return Finding("failed", detail, free_bytes=free)


def _disk_of_redis(settings: Settings) -> LocalDisk | None:
    """Return the disk of the Valkey that `make run` embeds. None for any other Redis."""
    folder = settings.data_dir / "valkey"
    is_here = is_loopback(urlsplit(settings.redis_url or "").hostname or "")
    return LocalDisk(folder) if is_here and folder.is_dir() else None


class _S3Check:
    def __init__(self, bucket: Bucket, breaker: StorageBreaker) -> None:
        self._bucket = bucket
        self._breaker = breaker
        self._probe = _WriteProbe(lambda size: bucket.probe(size), _S3_WRITE_SECONDS)  # noqa: PLW0108 - as it is then

    def finding(self) -> Finding:
        free = self._bucket.disk.free()
        try:
            self._bucket.ping()
            self._probe.require(min(self._failed_size(), LARGEST_PROBE))
            return Finding("ok", free_bytes=free)
        except MirrorError as error:
            return Finding("failed", error.message, free_bytes=free)

    def _failed_size(self) -> int:
        """Return the size of the write that last failed in a worker. Smaller writes may still fit on a full disk."""
        try:
            trouble = self._breaker.trouble()
        except RedisUnavailable:
            return 0
        return trouble.size if trouble else 0


class _SchedulesCheck:
    """How the schedules do. Pulls and jobs work without them, so nothing about them is more than a warning."""

    def __init__(self, schedules: Schedules) -> None:
        self._schedules = schedules
        self._summary: HealthSummary | None = None
        self._at = -inf

    def finding(self) -> Finding:
        if self._summary is None or monotonic() - self._at > _SCHEDULES_SECONDS:
            try:
                now = self._schedules.now()
                self._summary = summarize(self._schedules.store.outlines(), now, names=_SCHEDULES_NAMED)
            except RedisUnavailable:  # which the check of Redis reports
                return Finding("ok", warnings=(_UNKNOWN,))
            self._at = monotonic()
        summary = self._summary
        named = {"failing": summary.failing, "late": summary.late}
        warnings = [_warning(state, summary.counts[state], names) for state, names in named.items() if names]
        return Finding("ok", warnings=tuple(warnings), schedules=summary.counts)


def _warning(state: str, count: int, names: Sequence[str]) -> str:
    more = f" and {count - len(names)} more" if count > len(names) else ""
    return f"{count} of the schedules {'is' if count == 1 else 'are'} {state}: {', '.join(names)}{more}"


def _catalog(index: CatalogIndex) -> Finding:
    """Check the index. Pulls work without it, so an unfinished one is a warning."""
    if index.is_built():
        return Finding("ok")
    progress = index.progress()
    far = f": {progress.tags} tags done, up to {progress.repository}" if progress and progress.tags else ""
    warning = f"the index of images is being rebuilt from the bucket{far}; lists answer 503 until it is done"
    return Finding("ok", warnings=(warning,))


def _sync_file(converger: Converger) -> Finding:
    """Look at what became of the sync file. Schedules go on with the last good one, so all of it is a warning.

    The probe needs no token, so it shows places in the file only.
    """
    watched, status = converger.watched, converger.status()
    if watched is None:
        return Finding("ok")
    warnings: list[str] = []
    if status is None or status.file is None:
        warnings.append(f"no scheduler has read {watched} yet")
    elif status.state == "missing":
        warnings.append(f"{status.file} is missing, nothing is changed")
    elif status.state == "broken":
        first, more = status.problems[0], len(status.problems) - 1
        place = f"line {first.line}, column {first.column}" + (f" and {more} more" if more else "")
        warnings.append(f"{status.file} is broken at {place}, nothing is changed; see GET /v1/sync-file")
    elif status.conflicts:
        warnings.append(f"{len(status.conflicts)} syncs are left out, because schedules of the API have their names")
    return Finding("ok", warnings=tuple(warnings))


def _alive(processes: LiveProcesses, kind: Kind) -> Finding:
    """Look for live processes. Pulls work without them, so their absence does not make the mirror unready."""
    listed = tuple(processes.of(kind))
    found = Finding("ok", processes=listed)
    if any(process.is_alive for process in listed):
        return found
    return replace(found, status="degraded", detail=_MISSING[kind])
