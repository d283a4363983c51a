"""``python -m worker``: one worker process."""

from __future__ import annotations

import gc
import sys

import structlog

from mirror.catalog.publishing import COMMIT_TIMEOUT
from mirror.coordination.redis import Redis
from mirror.errors import RedisUnavailable, StorageRefused, StorageUnavailable
from mirror.log import configure
from mirror.oci import sha256
from mirror.oci.digest import Digest
from mirror.settings import InvalidSettings
from mirror.storage import layout
from mirror.storage.bucket import Bucket
from worker import tasks  # noqa: F401 - imported before the first fork, so that no horse has to
from worker.allocation import give_large_buffers_back
from worker.rq_worker import MirrorWorker
from worker.workshop import Workshop, workshop

_LOG = structlog.get_logger(__name__)
_MONITORING_SECONDS = 5
_ABSENT = layout.blob_key(Digest("sha256", 64 * "0"))


def main() -> int:
    configure("worker")
    try:
        equipped = workshop()
        wait_for_redis(equipped.redis)
        equipped.redis.prepare()
        equipped.admission.prepare()
    except InvalidSettings as error:
        print(error, file=sys.stderr)
        return 2
    except RedisUnavailable as error:
        _LOG.error(error.message, code=error.code, hint=error.hint)
        return 1
    work(equipped)
    return 0


def wait_for_redis(redis: Redis) -> None:
    """Return once Redis answers; raises RedisUnavailable after about two minutes of patience."""
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


def work(equipped: Workshop) -> None:
    """Perform tasks until SIGTERM."""
    give_large_buffers_back()
    equipped.bucket.prepare(commit_timeout=COMMIT_TIMEOUT)
    look_at(equipped.bucket)
    sha256.prepare()
    worker = MirrorWorker(
        [equipped.queue.rq],
        connection=equipped.queue.rq.connection,
        serializer="json",
        job_monitoring_interval=_MONITORING_SECONDS,
        maintenance_interval=60,
        log_job_description=False,
    )
    gc.collect()
    gc.freeze()  # what is there by now stays for ever: a horse neither looks through it nor copies its pages for that
    worker.work(logging_level="WARNING")


if __name__ == "__main__":
    sys.exit(main())
