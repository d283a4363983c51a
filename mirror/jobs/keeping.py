"""Keeping a claim: while a task is worked on, one thread renews its lease and pins and writes its progress.

The worker that is silent for a whole lease has lost its task. When this thread learns that, by a refused renewal or a
refused write, it interrupts the work; what the work writes until then is refused by its fence, and what it has put
into the bucket is verified and idempotent. When it learns that the job is being canceled, it interrupts the work too,
and keeps the claim while that clears up behind itself. Work that does not even notice, since it waits for a registry
that does not answer, is left to its own timeout: the task is said to be canceled without it.
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
from mirror.records.store import LEASE_SECONDS, Claim, JobStore, Outcome, Standing

LOST: Final = "the task was taken away"
CANCELED: Final = "the job was canceled"
_TICK: Final = 0.5
"""Seconds between two writes of progress, and until a cancellation is noticed."""
_GRACE: Final = 1.5
"""How long canceled work may clear up before its task is settled without it."""
_LOG = structlog.get_logger(__name__)


def holder_of(claim: Claim) -> str:
    """The name under which a claim holds pins and checkpoints."""
    return f"{claim.task.id}-{claim.fence}"


def task_of(holder: str) -> str:
    """The id of the task whose claim it was."""
    return holder.rpartition("-")[0]


class ClaimKeeper:
    """A context in which the claim is kept; at its end the last progress is written."""

    def __init__(self, store: JobStore, pins: Pins, claim: Claim, interruption: Interruption) -> None:
        self.progress = TaskReporter(store, claim)
        self.holder = holder_of(claim)
        self._store = store
        self._pins = pins
        self._claim = claim
        self._interruption = interruption
        self._renewed = 0.0
        self._pinned: float | None = None
        self._lock = threading.Lock()
        self._publishing = False
        self._canceled: float | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="claim-keeper", daemon=True)

    def __enter__(self) -> Self:
        self._renewed = monotonic()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()
        if kind is not None or self._pinned is not None:
            self.progress.flush()  # of an image that was there already, the task's outcome says it all
        if self._pinned is not None:
            self._pins.release(self.holder)

    def begin_copying(self) -> None:
        """The copy takes its pins as `holder` now, and they are kept; an image that is there already needs none."""
        self._pinned = monotonic()

    def begin_publishing(self) -> None:
        """From here on a cancellation comes too late; raises Interrupted if the work was to stop before."""
        with self._lock:
            self._interruption.check()
            self._publishing = True

    def _keep(self) -> None:
        while not self._ended.wait(_TICK):
            try:
                standing = self._written_and_renewed()
                if standing is Standing.CANCELING:
                    self._cancel()
            except RedisUnavailable:
                _LOG.warning("Redis does not answer; the copy goes on", task=self._claim.task.id)
                continue
            if standing is Standing.TAKEN_AWAY:
                self._interruption.interrupt(LOST)
                return

    def _cancel(self) -> None:
        """Interrupt the work, and settle the task if that has not helped in time."""
        now = monotonic()
        self._canceled = self._canceled or now
        self._interruption.interrupt(CANCELED, resumable=False)
        with self._lock:
            if now - self._canceled >= _GRACE and not self._publishing:
                self._store.settle(self._claim, "canceled", Outcome())

    def _written_and_renewed(self) -> Standing:
        """Write the progress, renew what is due; how the claim stands now, even if there was nothing to do."""
        standing = self.progress.flush()
        if standing is not Standing.TAKEN_AWAY and monotonic() - self._renewed > LEASE_SECONDS / 4:
            standing = self._store.renew(self._claim)
            self._renewed = monotonic()
        if standing is not Standing.TAKEN_AWAY and self._pins_are_due():
            if not self._pins.renew(self.holder):
                return Standing.TAKEN_AWAY
            self._pinned = monotonic()
        return self._store.standing(self._claim) if standing is None else standing

    def _pins_are_due(self) -> bool:
        return self._pinned is not None and monotonic() - self._pinned > HOLDER_SECONDS / 4
