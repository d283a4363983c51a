"""Keeping a claim: while a task is worked on, one thread renews its lease and pins and writes its progress.

The worker that is silent for a whole lease has lost its task. When this thread learns that, by a refused renewal or a
refused write, it interrupts the work; what the work writes until then is refused by its fence, and what it has put
into the bucket is verified and idempotent.
"""

from __future__ import annotations

import threading
from time import monotonic
from types import TracebackType
from typing import Final, Self

import structlog

from mirror.coordination.pins import HOLDER_SECONDS, Pins
from mirror.copying.interruption import Interruption
from mirror.errors import RedisUnavailable
from mirror.jobs.reporting import TaskReporter
from mirror.records.store import LEASE_SECONDS, Claim, JobStore

LOST: Final = "the task was taken away"
_TICK: Final = 0.5
"""Seconds between two writes of progress."""
_LOG = structlog.get_logger(__name__)


class ClaimKeeper:
    """A context in which the claim is kept; at its end the last progress is written."""

    def __init__(self, store: JobStore, pins: Pins, claim: Claim, interruption: Interruption) -> None:
        self.progress = TaskReporter(store, claim)
        self.holder = f"{claim.task.id}-{claim.fence}"
        self._store = store
        self._pins = pins
        self._claim = claim
        self._interruption = interruption
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="claim-keeper", daemon=True)

    def __enter__(self) -> Self:
        self._pins.pin(self.holder, [])
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()
        self.progress.flush()
        self._pins.release(self.holder)

    def _keep(self) -> None:
        renewed = pinned = monotonic()
        while not self._ended.wait(_TICK):
            try:
                kept = self.progress.flush()
                if kept and monotonic() - renewed > LEASE_SECONDS / 4:
                    kept = self._store.renew(self._claim)
                    renewed = monotonic()
                if kept and monotonic() - pinned > HOLDER_SECONDS / 4:
                    kept = self._pins.renew(self.holder)
                    pinned = monotonic()
            except RedisUnavailable:
                _LOG.warning("Redis does not answer; the copy goes on", task=self._claim.task.id)
                continue
            if not kept:
                self._interruption.interrupt(LOST)
                return
