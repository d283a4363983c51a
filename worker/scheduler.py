"""``python -m worker.scheduler``: finds lost tasks, rebuilds the index when Redis has lost it, sweeps orphaned uploads.

Any number may run; one at a time holds the lease and works, the others stand by. A second one that worked in spite of
it would do no harm: each step is safe to repeat.
"""

from __future__ import annotations

import signal
import sys
import threading
from time import monotonic
from typing import Final

import structlog

from mirror.catalog.rebuilding import rebuild
from mirror.coordination import keys
from mirror.coordination.lease import Lease
from mirror.errors import MirrorError, RedisUnavailable
from mirror.log import configure
from mirror.settings import InvalidSettings
from worker.workshop import Workshop, workshop

TICK: Final = 2.0
LEASE_SECONDS: Final = 15.0
SWEEP_SECONDS: Final = 15 * 60.0
_LOG = structlog.get_logger(__name__)


class Scheduler:
    """Ticks until it is told to stop."""

    def __init__(self, equipped: Workshop) -> None:
        self._equipped = equipped
        self._stop = threading.Event()
        self._lease: Lease | None = None
        self._swept: float | None = None

    def stop(self) -> None:
        self._stop.set()

    def run(self) -> None:
        """Tick now and every `TICK` seconds; an error of one tick is logged and the next one tries again."""
        while not self._stop.is_set():
            try:
                if self._leads():
                    self._tick()
            except MirrorError as error:
                _LOG.warning("scheduler tick failed", code=error.code, reason=error.message)
            self._stop.wait(TICK)
        self._give_way()

    def _tick(self) -> None:
        self._equipped.reconciler.reconcile()
        if not self._equipped.index.is_built():
            rebuild(self._equipped.index, self._equipped.links, self._equipped.publisher, alive=self._leads)
        if self._swept is None or monotonic() - self._swept > SWEEP_SECONDS:
            self._swept = monotonic()
            self._equipped.sweeper.sweep()

    def _leads(self) -> bool:
        """Whether this scheduler is the one that works, and means to go on; renews its lease."""
        if self._stop.is_set():
            return False
        leases = self._equipped.leases
        if self._lease and leases.renew(self._lease):
            return True
        self._lease = leases.take(keys.lease("scheduler"), LEASE_SECONDS)
        return self._lease is not None

    def _give_way(self) -> None:
        if self._lease is None:
            return
        try:
            self._equipped.leases.end(self._lease)
        except RedisUnavailable:
            _LOG.info("the scheduler's lease will end by itself")


def main() -> int:
    configure("scheduler")
    try:
        scheduler = Scheduler(workshop())
    except InvalidSettings as error:
        print(error, file=sys.stderr)
        return 2
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: scheduler.stop())
    scheduler.run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
