"""Keeping claims: while tasks are worked on, one thread renews their leases and pins and writes their progress.

The worker that is silent for a whole lease has lost its task. When the thread learns that, by a refused renewal or a
refused write, it interrupts the work; what the work writes until then is refused by its fence, and what it has put
into the bucket is verified and idempotent. When it learns that the job is being canceled, it interrupts the work too,
and keeps the claim while that clears up behind itself. Work that does not even notice, since it waits for a registry
that does not answer, is left to its own timeout: the task is said to be canceled without it.

A task whose record cannot be written or renewed, for another reason than a silent Redis, is stopped in the same way,
and fails. The others' claims are kept: no error ends the thread.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from time import monotonic
from typing import Final

import structlog
from redis.exceptions import ResponseError

from mirror.background import BackgroundLoop, record_fault
from mirror.copying.cancellation import Cancellation
from mirror.errors import RedisUnavailable
from mirror.jobs.progress import TaskProgress
from mirror.locks.pins import HOLDER_SECONDS, Pins
from mirror.records.claims import LEASE_SECONDS, Claim, ClaimState, ClaimStore, Outcome

LOST: Final = "the task was taken away"
CANCELED: Final = "the job was canceled"
FAULTY: Final = "the task's record cannot be written"
_TICK: Final = 0.5
"""Seconds between two writes of progress, and until a cancellation is noticed."""
_GRACE: Final = 1.5
"""How long canceled work may clear up before its task is settled without it."""
_LOG = structlog.get_logger(__name__)


class Heartbeats:
    """The claims that this process keeps. Its thread begins with the first of them and ends after the last."""

    def __init__(self, store: ClaimStore, pins: Pins) -> None:
        self._store = store
        self._pins = pins
        self._lock = threading.Lock()
        self._kept: list[Heartbeat] = []
        self._loop: BackgroundLoop | None = None

    def keep(self, claim: Claim, cancellation: Cancellation) -> Heartbeat:
        """Keep the claim from now until its keeper's `end`; *cancellation* stops the work on it."""
        keeper = Heartbeat(self._store, self._pins, claim, cancellation)
        with self._lock:
            self._kept.append(keeper)
            if self._loop is None:
                self._loop = BackgroundLoop("claim-keeper", _TICK, self._step).start()
        return keeper

    def _step(self) -> bool:
        """Keep all claims once more; False if there are none."""
        kept = self._current()
        try:
            self._tick(kept)
        except RedisUnavailable:
            _LOG.warning("Redis does not answer; the copies go on", tasks=len(kept))
        return bool(kept)

    def _current(self) -> Sequence[Heartbeat]:
        """The claims to keep; the thread ends if there are none."""
        with self._lock:
            self._kept = [keeper for keeper in self._kept if not keeper.has_ended]
            if not self._kept:
                self._loop = None
            return tuple(self._kept)

    def _tick(self, kept: Sequence[Heartbeat]) -> None:
        """Keep each; those that had nothing to write are asked for together."""
        quiet = [keeper for keeper in kept if not keeper.write_and_renew()]
        standings = self._store.states([k.claim for k in quiet]) if quiet else []
        for keeper, standing in zip(quiet, standings, strict=True):
            keeper.heed(standing)


class Heartbeat:
    """One claim. `end` waits until its thread has done with it, so nothing is written behind it."""

    def __init__(self, store: ClaimStore, pins: Pins, claim: Claim, cancellation: Cancellation) -> None:
        self.claim = claim
        self.progress = TaskProgress(store, claim)
        self.holder = claim.holder
        self.has_ended = False
        self._store = store
        self._pins = pins
        self._cancellation = cancellation
        self._renewed = monotonic()
        self._pinned: float | None = None
        self._busy = threading.Lock()
        self._lock = threading.Lock()
        self._publishing = False
        self._stopped: float | None = None
        self._is_faulty = False

    def begin_copying(self) -> None:
        """The copy takes its pins as `holder` now, and they are kept; an image that is there already needs none."""
        self._pinned = monotonic()

    def begin_publishing(self) -> None:
        """From here on a cancellation comes too late; raises OperationCanceled if the work was to stop before."""
        with self._lock:
            self._cancellation.check()
            self._publishing = True

    def end(self, *, failed: bool) -> None:
        """Write the last progress, unless the image was there already and the task's outcome says it all."""
        with self._busy:
            self.has_ended = True
        if failed or self._pinned is not None:
            with self._noting_faults():
                self.progress.flush()
        if self._pinned is not None:
            self._pins.release(self.holder)

    def write_and_renew(self) -> bool:
        """Write the progress and renew what is due; False if there was nothing to do. Raises RedisUnavailable alone."""
        standing: ClaimState | None = None
        with self._busy, self._noting_faults():
            standing = None if self.has_ended or self._is_faulty else self._written_and_renewed()
        if standing is None and not self._is_faulty:
            return False
        self.heed(standing or ClaimState.TAKEN_AWAY)
        return True

    def heed(self, standing: ClaimState | ResponseError) -> None:
        """Stop the work if it is not to go on; raises RedisUnavailable alone."""
        with self._busy, self._noting_faults():
            if isinstance(standing, ResponseError):
                raise standing
            if self.has_ended:
                return
            if self._is_faulty:
                self._stop(FAULTY, lambda: self._store.abandon(self.claim))
            elif standing is ClaimState.CANCELING:
                self._stop(CANCELED, lambda: self._store.settle("canceled", [(self.claim, Outcome())]))
            elif standing is ClaimState.TAKEN_AWAY:
                self._cancellation.cancel(LOST)

    def _stop(self, reason: str, settle: Callable[[], object]) -> None:
        """Interrupt the work, and settle the task if that has not helped in time."""
        now = monotonic()
        self._stopped = self._stopped or now
        self._cancellation.cancel(reason, resumable=False)
        with self._lock:
            if now - self._stopped >= _GRACE and not self._publishing:
                settle()

    @contextmanager
    def _noting_faults(self) -> Iterator[None]:
        """An error of this claim's record concerns this claim alone, and is noted once."""
        try:
            yield
        except RedisUnavailable:
            raise
        except Exception as error:  # noqa: BLE001 - the thread keeps other claims too
            if not self._is_faulty:
                record_fault("keeping a claim", error, task_id=self.claim.task.id, job_id=self.claim.task.job)
            self._is_faulty = True

    def _written_and_renewed(self) -> ClaimState | None:
        standing = self.progress.flush()
        if standing is not ClaimState.TAKEN_AWAY and monotonic() - self._renewed > LEASE_SECONDS / 4:
            standing = self._store.renew(self.claim)
            self._renewed = monotonic()
        if standing is not ClaimState.TAKEN_AWAY and self._pins_are_due():
            if not self._pins.renew(self.holder):
                return ClaimState.TAKEN_AWAY
            self._pinned = monotonic()
        return standing

    def _pins_are_due(self) -> bool:
        return self._pinned is not None and monotonic() - self._pinned > HOLDER_SECONDS / 4
