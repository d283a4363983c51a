"""``python -m worker.scheduler``: the periodic work of the fleet.

Any number of schedulers may run. Each task is run by one of them at a time, and the others stand by.
"""

from __future__ import annotations

import signal
import sys
from typing import Final

import structlog

from mirror.log import configure
from mirror.redis.failures import PATIENT, RedisRetry, address_of
from mirror.settings import InvalidSettings, Settings
from mirror.wiring import Core, build
from worker.liveness import Liveness
from worker.periodic import PeriodicTask, PeriodicTasks

RECONCILE_SECONDS: Final = 2.0
UNPARK_SECONDS: Final = 2.0
TICK_SECONDS: Final = 1.0
"""Seconds between two looks for schedules that are due."""
FOLLOW_SECONDS: Final = 2.0
"""Seconds between two looks for runs whose sources are to be followed."""
REBUILD_SECONDS: Final = 2.0
"""Seconds between two checks that the index exists."""
SYNC_FILE_SECONDS: Final = 1.0
"""Seconds between two looks at the sync file. The second look after a change applies it."""
PURGE_SECONDS: Final = 15 * 60.0
RELEASES_SECONDS: Final = 15.0
"""Seconds between two looks for releases whose worker died. Each is a listing of a few keys of the bucket."""
_LOG = structlog.get_logger(__name__)


def periodic_tasks(core: Core) -> list[PeriodicTask]:
    """Return all periodic work there is. The names are part of the keys of their leases in Redis."""
    watcher = core.sync_file_watcher
    return [
        *([PeriodicTask("sync_file", SYNC_FILE_SECONDS, watcher.run)] if watcher else []),
        PeriodicTask("reconcile", RECONCILE_SECONDS, lambda _: core.reconciler.reconcile()),
        PeriodicTask("unpark", UNPARK_SECONDS, lambda _: core.reconciler.unpark()),
        PeriodicTask("schedules", TICK_SECONDS, core.ticker.run),
        PeriodicTask("follow_upstream", FOLLOW_SECONDS, core.follower.run),
        PeriodicTask("rebuild", REBUILD_SECONDS, core.rebuilder.rebuild_if_missing),
        PeriodicTask("releases", RELEASES_SECONDS, core.stranded_releases.finish),
        PeriodicTask("purge_uploads", PURGE_SECONDS, lambda alive: core.upload_purge.purge(alive=alive)),
    ]


def main() -> int:
    try:
        core = build(Settings.load(Settings.require_stores), retries=PATIENT)
    except InvalidSettings as error:
        print(error, file=sys.stderr)
        return 2
    configure("scheduler", level=core.settings.log_level, line_format=core.settings.log_format)
    liveness = Liveness("scheduler", core.processes, core.settings.heartbeat_path)
    scheduler = PeriodicTasks(periodic_tasks(core), core.leases, liveness)
    if retry := RedisRetry.of(core.redis.client):
        retry.on_attempt = scheduler.note_progress
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: scheduler.stop())
    _LOG.info("connecting to Redis", address=address_of(core.settings.redis_url or ""))
    scheduler.run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
