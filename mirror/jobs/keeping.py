"""Keeping claims: while tasks are worked on, one thread renews their leases and pins and writes their progress.

The worker that is silent for a whole lease has lost its task. When the thread learns that, by a refused renewal or a
refused write, it interrupts the work; what the work writes until then is refused by its fence, and what it has put
into the bucket is verified and idempotent. When it learns that the job is being canceled, it interrupts the work too,
and keeps the claim while that clears up behind itself. Work that does not even notice, since it waits for a registry
that does not answer, is left to its own timeout: the task is said to be canceled without it.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from time import monotonic
from typing import Final

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


class ClaimKeeping:
    """The claims that this process keeps. Its thread begins with the first of them and ends after the last."""

    def __init__(self, store: JobStore, pins: Pins) -> None:
        self._store = store
        self._pins = pins
        self._lock = threading.Lock()
        self._kept: list[ClaimKeeper] = []
        self._thread: threading.Thread | None = None

    def keep(self, claim: Claim, interruption: Interruption) -> ClaimKeeper:
        """Keep the claim from now until its keeper's `end`; *interruption* stops the work on it."""
        keeper = ClaimKeeper(self._store, self._pins, claim, interruption)
        with self._lock:
            self._kept.append(keeper)
            if self._thread is None:
                self._thread = threading.Thread(target=self._keep, name="claim-keeper", daemon=True)
                self._thread.start()
        return keeper

    def _keep(self) -> None:
        ticks = threading.Event()
        while kept := self._current():
            ticks.wait(_TICK)
            try:
                self._tick([keeper for keeper in kept if not keeper.has_ended])
            except RedisUnavailable:
                _LOG.warning("Redis does not answer; the copies go on", tasks=len(kept))

    def _current(self) -> Sequence[ClaimKeeper]:
        """The claims to keep; the thread ends if there are none."""
        with self._lock:
            self._kept = [keeper for keeper in self._kept if not keeper.has_ended]
            if not self._kept:
                self._thread = None
            return tuple(self._kept)

    def _tick(self, kept: Sequence[ClaimKeeper]) -> None:
        """Keep each; those that had nothing to write are asked for together."""
        quiet = [keeper for keeper in kept if not keeper.write_and_renew()]
        for keeper, standing in zip(quiet, self._store.standings([k.claim for k in quiet]), strict=True):
            keeper.heed(standing)


class ClaimKeeper:
    """One claim. `end` waits until its thread has done with it, so nothing is written behind it."""

    def __init__(self, store: JobStore, pins: Pins, claim: Claim, interruption: Interruption) -> None:
        self.claim = claim
        self.progress = TaskReporter(store, claim)
        self.holder = holder_of(claim)
        self.has_ended = False
        self._store = store
        self._pins = pins
        self._interruption = interruption
        self._renewed = monotonic()
        self._pinned: float | None = None
        self._busy = threading.Lock()
        self._lock = threading.Lock()
        self._publishing = False
        self._canceled: float | None = None

    def begin_copying(self) -> None:
        """The copy takes its pins as `holder` now, and they are kept; an image that is there already needs none."""
        self._pinned = monotonic()

    def begin_publishing(self) -> None:
        """From here on a cancellation comes too late; raises Interrupted if the work was to stop before."""
        with self._lock:
            self._interruption.check()
            self._publishing = True

    def end(self, *, failed: bool) -> None:
        """Write the last progress, unless the image was there already and the task's outcome says it all."""
        with self._busy:
            self.has_ended = True
        if failed or self._pinned is not None:
            self.progress.flush()
        if self._pinned is not None:
            self._pins.release(self.holder)

    def write_and_renew(self) -> bool:
        """Write the progress and renew what is due; False if there was nothing to do. Raises RedisUnavailable."""
        with self._busy:
            standing = None if self.has_ended else self._written_and_renewed()
        if standing is None:
            return False
        self.heed(standing)
        return True

    def heed(self, standing: Standing) -> None:
        """Stop the work if it is not to go on; raises RedisUnavailable."""
        with self._busy:
            if self.has_ended:
                return
            if standing is Standing.CANCELING:
                self._cancel()
            elif standing is Standing.TAKEN_AWAY:
                self._interruption.interrupt(LOST)

    def _cancel(self) -> None:
        """Interrupt the work, and settle the task if that has not helped in time."""
        now = monotonic()
        self._canceled = self._canceled or now
        self._interruption.interrupt(CANCELED, resumable=False)
        with self._lock:
            if now - self._canceled >= _GRACE and not self._publishing:
                self._store.settle(self.claim, "canceled", Outcome())

    def _written_and_renewed(self) -> Standing | None:
        standing = self.progress.flush()
        if standing is not Standing.TAKEN_AWAY and monotonic() - self._renewed > LEASE_SECONDS / 4:
            standing = self._store.renew(self.claim)
            self._renewed = monotonic()
        if standing is not Standing.TAKEN_AWAY and self._pins_are_due():
            if not self._pins.renew(self.holder):
                return Standing.TAKEN_AWAY
            self._pinned = monotonic()
        return standing

    def _pins_are_due(self) -> bool:
        return self._pinned is not None and monotonic() - self._pinned > HOLDER_SECONDS / 4
