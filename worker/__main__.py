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
from worker import tasks  # noqa: F401 - imported before the first fork, so that no horse has to
from worker.core import worker_core
from worker.liveness import Liveness
from worker.malloc import give_large_buffers_back
from worker.rq_worker import MirrorWorker

_LOG = structlog.get_logger(__name__)
_MONITORING_SECONDS = 5
_RQ_MARGIN = 15
"""RQ waits for an entry for so many seconds less than a worker's time to live (BaseWorker.dequeue_timeout)."""
_ABSENT = layout.blob_key(Digest("sha256", 64 * "0"))


def main() -> int:
    try:
        core = worker_core()
        configure("worker", level=core.settings.log_level, line_format=core.settings.log_format)
        liveness = Liveness("worker", core.processes, core.settings.heartbeat_path)
        wait_for_redis(core.settings, core.redis, liveness)
        core.prepare()
    except InvalidSettings as error:
        print(error, file=sys.stderr)
        return 2
    except RedisUnavailable as error:
        _LOG.error(error.message, code=error.code, hint=error.hint)
        return 1
    work(core, liveness)
    return 0


def wait_for_redis(settings: Settings, redis: Redis, liveness: Liveness) -> None:
    """Return once Redis answers; raises RedisUnavailable after about two minutes of patience.

    The log names its address at once, and every failure to reach it.
    """
    _LOG.info("connecting to Redis", address=address_of(settings.redis_url or ""))
    if retry := RedisRetry.of(redis.client):
        retry.on_attempt = liveness.touch
    redis.call("PING")
    for warning in redis.warnings():
        _LOG.warning("Redis is not configured to keep jobs", problem=warning)


def look_at(bucket: Bucket) -> None:
    """Ask S3 once before the first horse has to, and say what is wrong with it; a worker begins even so, since its
    tasks wait for S3 as they do when it goes away later.
    """
    try:
        bucket.rehearse(_ABSENT)
    except (StorageUnavailable, StorageRefused) as error:
        _LOG.warning(error.message, code=error.code, hint=error.hint)


def work(core: Core, liveness: Liveness) -> None:
    """Perform tasks until SIGTERM."""
    give_large_buffers_back()
    core.bucket.prepare(commit_timeout=COMMIT_TIMEOUT)
    look_at(core.bucket)
    sha256.warm_up()
    worker = rq_worker(core.settings, liveness)
    gc.collect()
    gc.freeze()  # what is there by now stays for ever: a horse neither looks through it nor copies its pages for that
    worker.work(logging_level="WARNING")


def rq_worker(settings: Settings, liveness: Liveness) -> MirrorWorker:
    """RQ's worker, on a connection of its own that waits for Redis without limit."""
    connection = open_client(settings.redis_url or "", retries=FOREVER, decode_responses=False)
    if retry := RedisRetry.of(connection):
        retry.on_attempt = liveness.touch
    worker = MirrorWorker(
        [TaskQueue(connection).rq],
        connection=connection,
        serializer="json",
        worker_ttl=int(BEAT_SECONDS) + _RQ_MARGIN,  # the loop comes round, and beats, that often when nothing is queued
        job_monitoring_interval=_MONITORING_SECONDS,
        maintenance_interval=60,
        log_job_description=False,
    )
    worker.liveness = liveness
    return worker


if __name__ == "__main__":
    sys.exit(main())
