"""Heartbeats of claimed tasks: one thread renews their leases and pins and writes their progress.

A worker that is silent for a whole lease has lost its task. The thread learns this from a refused renewal or write, and
interrupts the work. Redis refuses what the work still writes, because the fence is old. What the work put into the
bucket is verified and idempotent, so it does no harm.

When the job is being canceled, the thread interrupts the work too. It renews the claim while the work cleans up. Work
that hangs in a request does not notice the interruption. Its task is settled as canceled without it, and the request
ends at its own timeout.

A task whose record cannot be written or renewed is interrupted in the same way, and fails. An outage of Redis is no
such fault. The other claims are still renewed, because no error ends the thread.
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
_INTERVAL: Final = 0.5
"""Seconds between two heartbeats of a claim. A cancellation is noticed after this time at the latest."""
_CLEANUP_SECONDS: Final = 1.5
"""Seconds that canceled work has for its cleanup before its task is settled without it."""
_LOG = structlog.get_logger(__name__)


class Heartbeats:
    """The heartbeats of this process. Their thread starts with the first claim and ends after the last one."""

    def __init__(self, claims: ClaimStore, pins: Pins) -> None:
        self._claims = claims
        self._pins = pins
        self._lock = threading.Lock()
        self._running: list[Heartbeat] = []
        self._loop: BackgroundLoop | None = None

    def start(self, claim: Claim, cancellation: Cancellation) -> Heartbeat:
        """Renew *claim* from now on, until `Heartbeat.end`. Use *cancellation* to stop the work on it."""
        heartbeat = Heartbeat(self._claims, self._pins, claim, cancellation)
        with self._lock:
            self._running.append(heartbeat)
            if self._loop is None:
                self._loop = BackgroundLoop("heartbeats", _INTERVAL, self._beat).start()
        return heartbeat

    def claims(self) -> list[Claim]:
        """Return the claims whose work has not ended."""
        with self._lock:
            return [heartbeat.claim for heartbeat in self._running if not heartbeat.has_ended]

    def _beat(self) -> bool:
        """Renew every claim once. Returns False if there is none."""
        heartbeats = self._without_ended()
        try:
            self._renew(heartbeats)
        except RedisUnavailable:
            _LOG.warning("Redis is unavailable, the copies go on", tasks=len(heartbeats))
        return bool(heartbeats)

    def _without_ended(self) -> Sequence[Heartbeat]:
        with self._lock:
            self._running = [heartbeat for heartbeat in self._running if not heartbeat.has_ended]
            if not self._running:
                self._loop = None
            return tuple(self._running)

    def _renew(self, heartbeats: Sequence[Heartbeat]) -> None:
        """Renew each claim. Read the states of those that had nothing to write in one round trip."""
        quiet = [heartbeat for heartbeat in heartbeats if not heartbeat.beat()]
        states = self._claims.states([heartbeat.claim for heartbeat in quiet]) if quiet else []
        for heartbeat, state in zip(quiet, states, strict=True):
            heartbeat.apply(state)


class Heartbeat:
    """The heartbeat of one claim, with the progress that it writes.

    `end` waits for a write that is under way, so nothing is written after it.
    """

    def __init__(self, claims: ClaimStore, pins: Pins, claim: Claim, cancellation: Cancellation) -> None:
        self.claim = claim
        self.progress = TaskProgress(claims, claim)
        self.holder = claim.holder
        self.has_ended = False
        self._claims = claims
        self._pins = pins
        self._cancellation = cancellation
        self._renewed_at = monotonic()
        self._pinned_at: float | None = None
        self._writing = threading.Lock()
        self._lock = threading.Lock()
        self._is_publishing = False
        self._stopped_at: float | None = None
        self._is_faulty = False

    def begin_copying(self) -> None:
        """Renew the pins of `holder` from now on. An image that is already there needs none."""
        self._pinned_at = monotonic()

    def begin_publishing(self) -> None:
        """Begin the part of the work that a cancellation no longer interrupts.

        Raises OperationCanceled if the work was to stop before.
        """
        with self._lock:
            self._cancellation.check()
            self._is_publishing = True

    def end(self, *, failed: bool) -> None:
        """Stop the heartbeat and release the pins. Raises RedisUnavailable.

        The last progress is written if the task has *failed* or copied anything. Else its outcome says everything.
        """
        with self._writing:
            self.has_ended = True
        if failed or self._pinned_at is not None:
            with self._noting_faults():
                self.progress.flush()
        if self._pinned_at is not None:
            self._pins.release(self.holder)

    def beat(self) -> bool:
        """Write the progress and renew what is due. Returns False if nothing was due. Raises only RedisUnavailable."""
        state: ClaimState | None = None
        with self._writing, self._noting_faults():
            state = None if self.has_ended or self._is_faulty else self._write_and_renew()
        if state is None and not self._is_faulty:
            return False
        self.apply(state or ClaimState.TAKEN_AWAY)
        return True

    def apply(self, state: ClaimState | ResponseError) -> None:
        """Stop the work if *state* requires it. Raises only RedisUnavailable."""
        with self._writing, self._noting_faults():
            if isinstance(state, ResponseError):
                raise state
            if self.has_ended:
                return
            if self._is_faulty:
                self._stop(FAULTY, lambda: self._claims.abandon(self.claim))
            elif state is ClaimState.CANCELING:
                self._stop(CANCELED, lambda: self._claims.settle("canceled", [(self.claim, Outcome())]))
            elif state is ClaimState.TAKEN_AWAY:
                self._cancellation.cancel(LOST)

    def _stop(self, reason: str, settle: Callable[[], object]) -> None:
        """Interrupt the work. Call *settle* if the work has not ended in time."""
        now = monotonic()
        self._stopped_at = self._stopped_at or now
        self._cancellation.cancel(reason, resumable=False)
        with self._lock:
            if now - self._stopped_at >= _CLEANUP_SECONDS and not self._is_publishing:
                settle()

    @contextmanager
    def _noting_faults(self) -> Iterator[None]:
        """Note an error of this claim's record once. It concerns no other claim of the thread."""
        try:
            yield
        except RedisUnavailable:
            raise
        except Exception as error:  # noqa: BLE001 - the thread renews other claims too
            if not self._is_faulty:
                record_fault("renewing a claim", error, task_id=self.claim.task.id, job_id=self.claim.task.job)
            self._is_faulty = True

    def _write_and_renew(self) -> ClaimState | None:
        state = self.progress.flush()
        if state is not ClaimState.TAKEN_AWAY and monotonic() - self._renewed_at > LEASE_SECONDS / 4:
            state = self._claims.renew(self.claim)
            self._renewed_at = monotonic()
        if state is not ClaimState.TAKEN_AWAY and self._pins_are_due():
            if not self._pins.renew(self.holder):
                return ClaimState.TAKEN_AWAY
            self._pinned_at = monotonic()
        return state

    def _pins_are_due(self) -> bool:
        return self._pinned_at is not None and monotonic() - self._pinned_at > HOLDER_SECONDS / 4
