"""Claim tasks for this process, and settle them: write how the work on each has ended.

No other process works on a claimed task until its lease expires. What goes wrong with a task is written to its record
and never raised. If Redis is unavailable, the record cannot be written. Then the lease expires and another worker takes
the task.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from time import monotonic
from typing import Final, TypeVar

import structlog

from mirror.background import record_fault
from mirror.catalog.confirm import Confirmer
from mirror.catalog.entry import IndexedTag
from mirror.catalog.tag_change import TagChange, TagChanges
from mirror.copying.cancellation import Cancellation, OperationCanceled
from mirror.copying.resolver import Resolver
from mirror.errors import InternalError, MirrorError, RedisUnavailable, StorageUnavailable
from mirror.jobs.heartbeat import CANCELED, FAULTY, LOST, Heartbeats
from mirror.jobs.storage_guard import StorageGuard
from mirror.oci.digest import Digest
from mirror.records.claims import Claim, ClaimStore, Outcome
from mirror.records.fields import timestamp
from mirror.records.jobs import Entry
from mirror.records.queued import TaskOrigin
from mirror.records.spec import CopySpec
from mirror.records.task import ErrorReport, WaitingFor

HANDOVER: Final = "the worker is shutting down"
_LOG = structlog.get_logger(__name__)
T = TypeVar("T")


class ClaimedTask:
    """A task that this process has claimed, with what belongs to the work on it.

    ``is_trial`` marks the one task that tests whether S3 accepts writes again.
    """

    def __init__(self, claim: Claim, heartbeats: Heartbeats, cancellation: Cancellation) -> None:
        self.claim = claim
        self.id = claim.task.id
        self.origin = TaskOrigin(claim.task.job, claim.task.spec.registry)
        self.is_trial = False
        self._began_at = monotonic()
        self._cleanup = ExitStack()
        self.cancellation = self._cleanup.enter_context(cancellation.child())
        self.heartbeat = heartbeats.start(claim, self.cancellation)

    @contextmanager
    def in_this_thread(self) -> Iterator[None]:
        """Work on the task in the calling thread: its cancellation ends waits, and log lines name the task."""
        self.cancellation.bind_thread()
        with structlog.contextvars.bound_contextvars(job_id=self.claim.task.job, task_id=self.id):
            yield

    def cost(self) -> dict[str, float]:
        """Return the seconds since the claim and the bytes that were copied, for the log."""
        return {"seconds": round(monotonic() - self._began_at, 3), "bytes": self.heartbeat.progress.copied}

    def end(self, *, failed: bool = False) -> None:
        """Stop the heartbeat. A second call does nothing. Raises RedisUnavailable."""
        self._cleanup.close()
        self.heartbeat.end(failed=failed)


class ClaimedCopy(ClaimedTask):
    """A claimed task that copies one image.

    ``held`` is what the index lists under its target. ``digest`` is what the source has, None until that is known. A
    digest from a HEAD is only a hint. ``are_referrers_current`` says that the source has no new referrers of it.
    """

    def __init__(
        self,
        claim: Claim,
        spec: CopySpec,
        change: TagChange,
        held: IndexedTag | None,
        heartbeats: Heartbeats,
        cancellation: Cancellation,
    ) -> None:
        super().__init__(claim, heartbeats, cancellation)
        self.spec = spec
        self.change = change
        self.held = held
        self.digest: Digest | None = None
        self.was_looked_up = False
        self.are_referrers_current = False

    def look_up(self, resolver: Resolver) -> bool:
        """Ask the source for its digest with a HEAD, which costs no pull quota. Returns True, or raises SourceError."""
        self.digest = resolver.digest(self.spec.source)
        self.was_looked_up = True
        return True


@dataclass(frozen=True, slots=True)
class TaskSettler:
    """Writes the outcomes of tasks. The methods raise nothing but RedisUnavailable."""

    claims: ClaimStore
    storage: StorageGuard

    def attempt(self, task: ClaimedTask, work: Callable[[], T]) -> T | None:
        """Return what *work* returns. If it raises, settle the task accordingly and return None."""
        try:
            return self._attempt(task, work)
        except RedisUnavailable:
            raise
        except Exception as error:  # noqa: BLE001 - other tasks of this process go on
            record_fault("settling a task", error, task_id=task.id)
            self.claims.abandon(task.claim)
            return None

    def _attempt(self, task: ClaimedTask, work: Callable[[], T]) -> T | None:
        try:
            try:
                task.cancellation.check()
                return work()
            except BaseException:
                task.end(failed=True)
                raise
        except OperationCanceled as canceled:
            self._settle_interrupted(task, canceled.reason)
        except RedisUnavailable:
            raise
        except StorageUnavailable as error:
            self.storage.failed(task.claim, error, task.heartbeat.progress.missing())
            self._park_or_fail(task, error)
        except MirrorError as error:
            self._park_or_fail(task, error)
        except Exception:  # noqa: BLE001 - RQ would store the traceback, which may contain a secret
            _LOG.exception("task failed unexpectedly")
            self.fail(task.claim, InternalError(), **task.cost())
        return None

    def succeed(self, task: ClaimedTask, outcome: Outcome) -> None:
        """End the task as succeeded."""
        task.end()
        self.claims.settle("succeeded", [(task.claim, outcome)])
        facts = {"source": str(task.claim.task.spec.source), "digest": outcome.digest, "unchanged": outcome.unchanged}
        if outcome.skipped:
            facts["skipped"] = outcome.skipped.reason
        _note("task succeeded", task.claim, **facts, **task.cost())

    def succeed_unchanged(self, outcomes: Sequence[tuple[ClaimedTask, Outcome]]) -> None:
        """End many tasks as succeeded in few round trips. One log line stands for all tasks of a job."""
        for task, _ in outcomes:
            task.end()
        self.claims.settle("succeeded", [(task.claim, outcome) for task, outcome in outcomes])
        counts = Counter(
            (task.claim.task.job, outcome.unchanged, outcome.skipped and outcome.skipped.reason)
            for task, outcome in outcomes
        )
        for (job, unchanged, skipped), tasks in counts.items():
            reason = {"skipped": skipped} if skipped else {}
            _LOG.info("tasks succeeded", job_id=job, tasks=tasks, unchanged=unchanged, **reason)

    def fail(self, claim: Claim, error: MirrorError, **cost: float) -> None:
        """End the task as failed with *error*."""
        self.claims.settle("failed", [(claim, Outcome(error=ErrorReport.of(error)))])
        facts = {"code": error.code, "reason": error.message, "hint": error.hint, **cost}
        _LOG.warning(
            "task failed", job_id=claim.task.job, task_id=claim.task.id, source=str(claim.task.spec.source), **facts
        )

    def hand_over(self, claims: Sequence[Claim], reason: str) -> None:
        """Queue the tasks again for other workers. No loss is counted. A task whose job is being canceled ends."""
        for claim in self.claims.hand_over(claims):
            _note("task handed over", claim, reason=reason)

    def hand_back(self, tasks: Sequence[ClaimedTask], reason: str) -> None:
        """Stop the work on tasks of this process and hand them over. Raises nothing."""
        with tolerate_outage(task.id for task in tasks):
            for task in tasks:
                task.end()
            self.hand_over([task.claim for task in tasks], reason)

    def _settle_interrupted(self, task: ClaimedTask, reason: str) -> None:
        claim, source = task.claim, str(task.claim.task.spec.source)
        if reason == LOST:
            _LOG.warning("task was taken away, another worker has it")
        elif reason == FAULTY:
            self.claims.abandon(claim)
            facts = {"source": source, "code": InternalError.code, "hint": InternalError.hint}
            _LOG.warning("task failed", reason=reason, **facts, **task.cost())
        elif reason == CANCELED:
            self.claims.settle("canceled", [(claim, Outcome())])
            _note("task canceled", claim, source=source, **task.cost())
        else:
            self.hand_over([claim], reason)

    def _park_or_fail(self, task: ClaimedTask, error: MirrorError) -> None:
        """Let the task wait without a worker if *error* may pass. End it as failed if not, or after its patience."""
        claim, reason = task.claim, error.waits_for
        time = reason and self.claims.parking_time(claim, reason, wait=error.retry_after, patience=error.patience)
        if not reason or not time or time.seconds <= 0:
            self.fail(claim, error, **task.cost())
            return
        until = timestamp(time.until)
        waiting_for = WaitingFor(reason, until, error.registry, error.message)
        fails_with = ErrorReport.of(error) if time.is_last else None
        if self.claims.release(claim, wait=time.seconds, waiting_for=waiting_for, fails_with=fails_with):
            facts = {"source": str(claim.task.spec.source), "code": error.code, "reason": error.message}
            _LOG.warning("task waits", **facts, seconds=round(time.seconds), until=until)


@dataclass(frozen=True, slots=True)
class TaskClaimer:
    """Claims tasks for the entries that were taken from the queue."""

    claims: ClaimStore
    changes: TagChanges
    confirmer: Confirmer
    heartbeats: Heartbeats
    settler: TaskSettler

    def claim(self, entries: Sequence[Entry], cancellation: Cancellation) -> list[ClaimedTask]:
        """Claim the tasks of *entries* in few round trips, and start their heartbeats.

        Stale entries are left out, and so are tasks that cannot be worked on: their records say why. Tasks have a
        number in the sequence of their tag before anything asks their source. *cancellation* stops the work on all.
        While Redis is unavailable no task is claimed.
        """
        tasks: list[ClaimedTask] = []
        with tolerate_outage(task_id for task_id, *_ in entries):
            claims = self._claim(entries)
            try:
                tasks += self._begin(claims, cancellation)
            except RedisUnavailable:
                raise
            except Exception as error:  # noqa: BLE001 - one of them has a fault, which shows when each is begun alone
                record_fault("beginning tasks together", error)
                for claim in claims:
                    tasks += self._begin_alone(claim, cancellation)
        return tasks

    def _claim(self, entries: Sequence[Entry]) -> list[Claim]:
        claims = self.claims.claim(entries)
        for (task_id, fence, _), claim in zip(entries, claims, strict=True):
            if claim is None:
                _LOG.info("stale queue entry", task_id=task_id, fence=fence)
        return [claim for claim in claims if claim]

    def _begin(self, claims: Sequence[Claim], cancellation: Cancellation) -> list[ClaimedTask]:
        specs = {claim.task.id: claim.task.spec for claim in claims if isinstance(claim.task.spec, CopySpec)}
        jobs = {claim.task.id: claim.task.job for claim in claims}
        changes = self.changes.take_numbers([(spec.target, jobs[task_id]) for task_id, spec in specs.items()])
        indexed = self.confirmer.indexed([spec.target for spec in specs.values()])
        tags = dict(zip(specs, zip(changes, indexed, strict=True), strict=True))
        begun: list[ClaimedTask] = []
        for claim in claims:
            try:
                if claim.task.id in specs:
                    spec, (change, held) = specs[claim.task.id], tags[claim.task.id]
                    begun.append(ClaimedCopy(claim, spec, change, held, self.heartbeats, cancellation))
                else:
                    begun.append(ClaimedTask(claim, self.heartbeats, cancellation))
            except OperationCanceled as canceled:
                self.settler.hand_over([claim], canceled.reason)
        return begun

    def _begin_alone(self, claim: Claim, cancellation: Cancellation) -> list[ClaimedTask]:
        """Return the task, or an empty list if it cannot be begun. Then it has failed."""
        try:
            return self._begin([claim], cancellation)
        except RedisUnavailable:
            raise
        except Exception as error:  # noqa: BLE001 - the others are begun all the same
            record_fault("beginning a task", error, task_id=claim.task.id)
            self.settler.fail(claim, InternalError())
            return []


@contextmanager
def tolerate_outage(task_ids: Iterable[str]) -> Iterator[None]:
    """Log RedisUnavailable for these tasks and go on: their leases expire, and other workers take them."""
    try:
        yield
    except RedisUnavailable:
        for task_id in task_ids:
            _LOG.error("Redis is unavailable, another worker takes the task when its lease expires", task_id=task_id)


def _note(event: str, claim: Claim, **facts: object) -> None:
    _LOG.info(event, job_id=claim.task.job, task_id=claim.task.id, **facts)
