"""``python -m worker.scheduler``: the periodic work of the fleet.

``reconcile`` finds lost tasks, ``rebuild`` builds the index anew when Redis has lost it, and ``sweep`` aborts orphaned
uploads.
Any number of schedulers may run. Each task is run by one of them at a time, and the others stand by.
"""

from __future__ import annotations

import signal
import sys
from typing import Final

import structlog

from mirror.log import configure
from mirror.redis.failures import RedisRetry, address_of
from mirror.settings import InvalidSettings
from mirror.wiring import Core
from worker.core import worker_core
from worker.liveness import Liveness
from worker.periodic import PeriodicTask, PeriodicTasks

RECONCILE_SECONDS: Final = 2.0
REBUILD_SECONDS: Final = 2.0
"""Between two looks whether the index is there."""
SWEEP_SECONDS: Final = 15 * 60.0
_LOG = structlog.get_logger(__name__)


def tasks(core: Core) -> list[PeriodicTask]:
    """All periodic work there is."""
    return [
        PeriodicTask("reconcile", RECONCILE_SECONDS, lambda _: core.reconciler.reconcile()),
        PeriodicTask("rebuild", REBUILD_SECONDS, core.rebuilder.rebuild_if_missing),
        PeriodicTask("sweep", SWEEP_SECONDS, lambda alive: core.upload_purge.sweep(alive=alive)),
    ]


def main() -> int:
    try:
        core = worker_core()
    except InvalidSettings as error:
        print(error, file=sys.stderr)
        return 2
    configure("scheduler", level=core.settings.log_level, line_format=core.settings.log_format)
    liveness = Liveness("scheduler", core.processes, core.settings.heartbeat_path)
    scheduler = PeriodicTasks(tasks(core), core.leases, liveness)
    if retry := RedisRetry.of(core.redis.client):
        retry.on_attempt = scheduler.note_progress
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: scheduler.stop())
    _LOG.info("connecting to Redis", address=address_of(core.settings.redis_url or ""))
    scheduler.run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
