"""``python -m worker``: one worker process."""

from __future__ import annotations

import gc
import sys

import structlog

from mirror.catalog.tag_change import COMMIT_TIMEOUT
from mirror.errors import RedisUnavailable, StorageRefused, StorageUnavailable
from mirror.log import configure
from mirror.oci import sha256
from mirror.oci.digest import Digest
from mirror.queue import TaskQueue
from mirror.records.processes import BEAT_SECONDS
from mirror.redis.client import Redis, open_client
from mirror.redis.failures import FOREVER, RedisRetry, address_of
from mirror.settings import InvalidSettings, Settings
from mirror.storage import layout
from mirror.storage.bucket import Bucket
from mirror.wiring import Core
from worker import tasks  # noqa: F401 - imported before the first fork, so that no work horse has to
from worker.liveness import Liveness
from worker.rq_worker import MirrorWorker
from worker.work_horse import configure_malloc, worker_core

_LOG = structlog.get_logger(__name__)
_MONITORING_SECONDS = 5
_WORKER_TTL = int(BEAT_SECONDS) + 15
"""Seconds after which RQ forgets a silent worker. An idle worker waits 15 s less for an entry, and then beats."""
_ABSENT = layout.blob_key(Digest("sha256", 64 * "0"))


def main() -> int:
    try:
        core = worker_core()
        configure("worker", level=core.settings.log_level, line_format=core.settings.log_format)
        liveness = Liveness("worker", core.processes, core.settings.heartbeat_path)
        _wait_for_redis(core.settings, core.redis, liveness)
        core.prepare()
    except InvalidSettings as error:
        print(error, file=sys.stderr)
        return 2
    except RedisUnavailable as error:
        _LOG.error(error.message, code=error.code, hint=error.hint)
        return 1
    _work(core, liveness)
    return 0


def _wait_for_redis(settings: Settings, redis: Redis, liveness: Liveness) -> None:
    """Return once Redis responds. Raises RedisUnavailable after about two minutes.

    The log names its address at once, and then every failure to reach it.
    """
    _LOG.info("connecting to Redis", address=address_of(settings.redis_url or ""))
    if retry := RedisRetry.of(redis.client):
        retry.on_attempt = liveness.touch
    redis.call("PING")
    for warning in redis.warnings():
        _LOG.warning("Redis is not configured to keep jobs", problem=warning)


def check_bucket(bucket: Bucket) -> None:
    """Ask S3 once, and log what is wrong with it. The worker starts anyway, because its tasks wait for S3."""
    try:
        bucket.rehearse(_ABSENT)
    except (StorageUnavailable, StorageRefused) as error:
        _LOG.warning(error.message, code=error.code, hint=error.hint)


def _work(core: Core, liveness: Liveness) -> None:
    """Run tasks until SIGTERM."""
    configure_malloc()
    core.bucket.prepare(commit_timeout=COMMIT_TIMEOUT)
    check_bucket(core.bucket)
    sha256.warm_up()
    worker = _rq_worker(core.settings, liveness)
    if core.file_credentials:
        core.file_credentials.refresh()
        worker.before_fork = core.file_credentials.refresh
    gc.collect()
    gc.freeze()  # a work horse neither scans these objects nor copies their pages
    worker.work(logging_level="WARNING")


def _rq_worker(settings: Settings, liveness: Liveness) -> MirrorWorker:
    """Build RQ's worker, on a connection of its own that waits for Redis without limit."""
    connection = open_client(settings.redis_url or "", retries=FOREVER, decode_responses=False)
    if retry := RedisRetry.of(connection):
        retry.on_attempt = liveness.touch
    worker = MirrorWorker(
        list(TaskQueue(connection).lanes.values()),
        connection=connection,
        serializer="json",
        worker_ttl=_WORKER_TTL,
        job_monitoring_interval=_MONITORING_SECONDS,
        maintenance_interval=60,
        log_job_description=False,
    )
    worker.liveness = liveness
    return worker


if __name__ == "__main__":
    sys.exit(main())
