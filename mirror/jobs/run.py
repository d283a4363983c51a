"""Performing a task: claim it, mirror its image, settle its record. Safe to run twice, and on two machines at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from time import monotonic
from typing import Final, TypeVar

import structlog

from mirror.background import record_fault
from mirror.catalog.confirm import Confirmer, LockedTags
from mirror.catalog.entry import IndexedTag
from mirror.catalog.publish import Publisher
from mirror.catalog.tag_change import TagChange, TagChanges, TagUpdate
from mirror.copying.cancellation import Cancellation, OperationCanceled
from mirror.copying.copier import Copier
from mirror.copying.resolver import Resolver
from mirror.errors import (
    BlobUnknown,
    InternalError,
    ManifestUnknown,
    MirrorError,
    RedisUnavailable,
    StorageUnavailable,
)
from mirror.jobs.heartbeat import CANCELED, FAULTY, LOST, Heartbeats
from mirror.jobs.storage_guard import StorageGuard
from mirror.oci.digest import Digest
from mirror.oci.image import Image
from mirror.oci.reference import Reference
from mirror.queue import TaskQueue
from mirror.records.claims import Claim, ClaimStore, Outcome
from mirror.records.fields import at, timestamp
from mirror.records.task import ErrorReport, WaitingFor
from mirror.redis.client import Redis
from mirror.storage.provenance import ImageProvenance

HANDOVER: Final = "the worker is shutting down"
_LOG = structlog.get_logger(__name__)
T = TypeVar("T")


class ClaimedTask:
    """A task that this process has claimed, with what it needs until its `TaskRunner` has ended it.

    ``shown`` is the digest with which the index lists its target, and ``listed`` the same if that came from its source.
    ``digest`` is what its source was found to be, once it has been looked at: a hint while only a HEAD has told it.
    ``registry`` is its source's. ``is_trial`` says that it is the one task that tries whether S3 takes writes again.
    """

    def __init__(
        self,
        claim: Claim,
        ticket: TagChange,
        listed: IndexedTag | None,
        keeping: Heartbeats,
        cancellation: Cancellation,
    ) -> None:
        self.claim = claim
        self.registry = claim.task.spec.source.registry
        self.ticket = ticket
        self.shown = listed.digest if listed else None
        self.listed = listed.digest if listed and listed.is_from(str(claim.task.spec.source)) else None
        self.was_looked_at = False
        self.is_trial = False
        self.digest: Digest | None = None
        self._began = monotonic()
        self._held = ExitStack()
        self.cancellation = self._held.enter_context(cancellation.child())
        self.keeper = keeping.keep(claim, self.cancellation)

    @contextmanager
    def in_this_thread(self) -> Iterator[None]:
        """Work on it in the calling thread: waits end with its cancellation, and what is logged names it."""
        self.cancellation.bind_thread()
        with structlog.contextvars.bound_contextvars(job_id=self.claim.task.job, task_id=self.claim.task.id):
            yield

    def cost(self) -> dict[str, float]:
        """Return what the work on it took so far, for the log: seconds, and bytes that were copied."""
        return {"seconds": round(monotonic() - self._began, 3), "bytes": self.keeper.progress.copied}

    def end(self, *, failed: bool) -> None:
        """Keep the claim no longer; raises RedisUnavailable."""
        self._held.close()
        self.keeper.end(failed=failed)


@dataclass(frozen=True, slots=True)
class TaskRunner:
    """What a worker needs to perform tasks; it keeps nothing of one task for the next.

    A task is begun, then mirrored. In between many may be looked at side by side and settled in one go, if their tags
    show already what their sources are. What a task does wrong is never raised, but written to its record. Raised is
    RedisUnavailable alone, when the outcome cannot be noted: then the lease expires and the task is found again.
    """

    store: ClaimStore
    queue: TaskQueue
    redis: Redis
    keeping: Heartbeats
    changes: TagChanges
    confirmer: Confirmer
    publisher: Publisher
    resolver: Resolver
    copier: Copier
    storage: StorageGuard

    def begin(
        self, entries: Sequence[tuple[str, int]], cancellation: Cancellation, *, claimed: Callable[[Claim], None]
    ) -> list[ClaimedTask]:
        """Claim the tasks whose queue entries, given as (task id, fence), are not stale.

        *claimed* is told each claim before anything else happens to it, so that a watchdog can give it back.
        """
        claims = self._claim(entries, claimed)
        try:
            return self._begun(claims, cancellation)
        except RedisUnavailable:
            raise
        except Exception as error:  # noqa: BLE001 - one of them is at fault, which is known when each is begun alone
            record_fault("beginning tasks together", error)
        return [claimed_task for claim in claims for claimed_task in self._begun_alone(claim, cancellation)]

    def _begun_alone(self, claim: Claim, cancellation: Cancellation) -> list[ClaimedTask]:
        """The task, or none if it cannot be begun: then it has failed."""
        try:
            return self._begun([claim], cancellation)
        except RedisUnavailable:
            raise
        except Exception as error:  # noqa: BLE001 - the others are begun all the same
            record_fault("beginning a task", error, task_id=claim.task.id)
            self._fail(claim, InternalError())
            return []

    def _begun(self, claims: Sequence[Claim], cancellation: Cancellation) -> list[ClaimedTask]:
        tickets = self.changes.take_numbers([(claim.task.spec.target, claim.task.job) for claim in claims])
        listed = self.confirmer.indexed([claim.task.spec.target for claim in claims])
        begun = []
        for claim, ticket, found in zip(claims, tickets, listed, strict=True):
            try:
                begun.append(ClaimedTask(claim, ticket, found, self.keeping, cancellation))
            except OperationCanceled as interrupted:
                self.hand_over(claim, interrupted.reason)
        return begun

    def _claim(self, entries: Sequence[tuple[str, int]], claimed: Callable[[Claim], None]) -> list[Claim]:
        found = []
        for (task_id, fence), claim in zip(entries, self.store.claim(entries), strict=True):
            if claim is None:
                _LOG.info("stale queue entry", task_id=task_id, fence=fence)
                continue
            claimed(claim)
            found.append(claim)
        return found

    def look(self, claimed_task: ClaimedTask) -> bool:
        """Ask the source what it is now; whether the task goes on. Costs no pull quota."""
        with claimed_task.in_this_thread():
            return self._attempted(claimed_task, lambda: self._look(claimed_task)) is not None

    @contextmanager
    def holding(self, claimed_tasks: Collection[ClaimedTask]) -> Iterator[LockedTags | None]:
        """Lock the tags of indexed tasks and, in parallel, read from S3 which tags already match the index.

        None where there are none, or Redis is away.
        """
        with ExitStack() as stack:
            tags = None
            if claimed_tasks:
                try:
                    wanted = [
                        (claimed_task.ticket, claimed_task.listed)
                        for claimed_task in claimed_tasks
                        if claimed_task.listed
                    ]
                    tags = stack.enter_context(self.confirmer.lock_tags(wanted))
                except MirrorError as error:
                    _note_unseen(claimed_tasks, error)
                except Exception as error:  # noqa: BLE001 - each is looked at by itself then
                    record_fault("holding tags", error)
            yield tags

    def settle_unchanged(self, claimed_tasks: Sequence[ClaimedTask], tags: LockedTags | None) -> list[ClaimedTask]:
        """End those that are held and whose sources are what their tags show. The others are answered: they are to be
        mirrored, which also tells what is wrong with one of them.
        """
        try:
            shown = self._shown(claimed_tasks, tags)
            outcomes = [(claimed_task.claim, _unchanged(published)) for claimed_task, published in shown]
            _end_all(claimed_task for claimed_task, _ in shown)
            self.store.settle("succeeded", outcomes)
        except BaseException:
            _end_all(claimed_tasks)
            raise
        for (job, unchanged), tasks in Counter((c.task.job, outcome.unchanged) for c, outcome in outcomes).items():
            _LOG.info("tasks succeeded", job_id=job, tasks=tasks, unchanged=unchanged)
        settled = {claimed_task for claimed_task, _ in shown}
        return [claimed_task for claimed_task in claimed_tasks if claimed_task not in settled]

    def _shown(
        self, claimed_tasks: Sequence[ClaimedTask], tags: LockedTags | None
    ) -> list[tuple[ClaimedTask, TagUpdate]]:
        """Those whose tags show what their sources are; none if the bucket did not tell."""
        if tags is None:
            return []
        try:
            found = tags.confirm(
                [(claimed_task.ticket, claimed_task.digest) for claimed_task in claimed_tasks if claimed_task.digest]
            )
        except RedisUnavailable:
            raise
        except MirrorError as error:
            _note_unseen(claimed_tasks, error)
            return []
        except Exception as error:  # noqa: BLE001 - the short cut has no errors of its own
            record_fault("looking at tags together", error)
            return []
        return [
            (claimed_task, published) for claimed_task, published in zip(claimed_tasks, found, strict=True) if published
        ]

    def mirror(self, claimed_task: ClaimedTask) -> None:
        """Copy the image if that is needed, publish it, and end the task."""
        with claimed_task.in_this_thread():
            outcome = self._attempted(claimed_task, lambda: self._mirror(claimed_task))
            if outcome is not None:
                self._succeed(claimed_task, outcome)

    def hand_back(self, claimed_tasks: Sequence[ClaimedTask], reason: str) -> None:
        """Leave tasks that were begun to other workers."""
        _end_all(claimed_tasks)
        self._hand_over([claimed_task.claim for claimed_task in claimed_tasks], reason)

    def _attempted(self, claimed_task: ClaimedTask, work: Callable[[], T]) -> T | None:
        """What *work* answers; None if that ended the claimed_task, as the task's record says then."""
        try:
            return self._tried(claimed_task, work)
        except RedisUnavailable:
            raise
        except Exception as error:  # noqa: BLE001 - other tasks of this process go on
            record_fault("ending a task", error, task_id=claimed_task.claim.task.id)
            self.store.abandon(claimed_task.claim)
            return None

    def _tried(self, claimed_task: ClaimedTask, work: Callable[[], T]) -> T | None:
        claim = claimed_task.claim
        try:
            try:
                claimed_task.cancellation.check()
                return work()
            except BaseException:
                claimed_task.end(failed=True)
                raise
        except OperationCanceled as interrupted:
            self._interrupted(claimed_task, interrupted.reason)
        except RedisUnavailable:
            raise
        except StorageUnavailable as error:
            self.storage.failed(claim, error, claimed_task.keeper.progress.missing())
            self._park(claimed_task, error, reason=error.waits_for or error.code)
        except MirrorError as error:
            if error.waits_for is None:
                self._fail(claim, error, **claimed_task.cost())
            else:
                self._park(claimed_task, error, reason=error.waits_for)
        except Exception:  # noqa: BLE001 - the task's boundary: what escaped would be stored by RQ as a traceback
            _LOG.exception("task failed unexpectedly")
            self._fail(claim, InternalError(), **claimed_task.cost())
        return None

    def _look(self, claimed_task: ClaimedTask) -> bool:
        reference = claimed_task.claim.task.spec.source
        claimed_task.digest = self.resolver.digest(reference)
        claimed_task.was_looked_at = True
        return True

    def _mirror(self, claimed_task: ClaimedTask) -> Outcome:
        task = claimed_task.claim.task
        reference = task.spec.source
        names = {"source": str(reference), "target": str(task.spec.target)}
        _note("task started", claimed_task.claim, **names, attempt=task.attempt)
        claimed_task.is_trial = self.storage.require(
            claimed_task.claim
        )  # before the source is asked for what cannot be stored
        if not claimed_task.was_looked_at:
            self._look(claimed_task)
        hint = claimed_task.digest
        if hint is not None and (shown := self.confirmer.confirm(claimed_task.ticket, hint, reference)) is not None:
            return _unchanged(shown)
        try:
            return self._bring(claimed_task, reference, hint)
        except (BlobUnknown, ManifestUnknown) as error:
            if reference.digest or (isinstance(error, ManifestUnknown) and not error.is_child):
                raise
            _LOG.info("a part of the image is gone; its tag is read once more", code=error.code, reason=error.message)
            return self._bring(claimed_task, reference, None, unless_still=(claimed_task.digest, error))

    def _bring(
        self,
        claimed_task: ClaimedTask,
        reference: Reference,
        hint: Digest | None,
        *,
        unless_still: tuple[Digest | None, MirrorError] | None = None,
    ) -> Outcome:
        """Read the image, copy what is missing of it and publish it.

        *unless_still* is a digest whose image is known not to be whole, and the error that told so: it is raised if
        that is still what the source has.
        """
        with self.copier.manifest_memory(reference, claimed_task.cancellation) as memory:
            with self.resolver.resolving(reference, hint, claimed_task.cancellation, memory) as resolution:
                claimed_task.digest = digest = resolution.root.descriptor.digest
                if unless_still and unless_still[0] == digest:
                    raise unless_still[1]
                claimed_task.keeper.progress.resolved(digest)
                if digest != hint or digest == claimed_task.shown:
                    shown = self.confirmer.confirm(claimed_task.ticket, digest, reference, served=True)
                    if shown is not None:
                        return _unchanged(shown)
                image, held = resolution.image(), resolution.held
            return self._copy_and_publish(claimed_task, reference, image, held)

    def _copy_and_publish(
        self, claimed_task: ClaimedTask, reference: Reference, image: Image, held: Sequence[Digest]
    ) -> Outcome:
        """*held* are manifests of the image that were read from the bucket."""
        keeper, cancellation = claimed_task.keeper, claimed_task.cancellation
        keeper.begin_copying()
        copied = self.copier.copy(
            reference, image, holder=keeper.holder, progress=keeper.progress, cancellation=cancellation
        )
        keeper.begin_publishing()
        moment = timestamp(at(self.redis.now()))
        origin = ImageProvenance(
            str(reference), image.digest, moment, claimed_task.claim.task.job, held=(*held, *copied.held)
        )
        published = self.publisher.publish(claimed_task.ticket, image.leaving_out(copied.left_out), origin)
        if claimed_task.is_trial:
            self.storage.succeeded(claimed_task.claim)
        return Outcome(str(image.digest), superseded_by=published.superseded_by)

    def _succeed(self, claimed_task: ClaimedTask, outcome: Outcome) -> None:
        claimed_task.end(failed=False)
        self.store.settle("succeeded", [(claimed_task.claim, outcome)])
        facts = {
            "source": str(claimed_task.claim.task.spec.source),
            "digest": outcome.digest,
            "unchanged": outcome.unchanged,
        }
        _note("task succeeded", claimed_task.claim, **facts, **claimed_task.cost())

    def _interrupted(self, claimed_task: ClaimedTask, reason: str) -> None:
        claim = claimed_task.claim
        if reason == LOST:
            _LOG.warning("task was taken away; another worker has it")
        elif reason == FAULTY:
            self.store.abandon(claim)
            facts = {"source": str(claim.task.spec.source), "code": InternalError.code, "hint": InternalError.hint}
            _LOG.warning("task failed", reason=reason, **facts, **claimed_task.cost())
        elif reason == CANCELED:
            self.store.settle("canceled", [(claim, Outcome())])
            _note("task canceled", claim, source=str(claim.task.spec.source), **claimed_task.cost())
        else:
            self.hand_over(claim, reason)

    def hand_over(self, claim: Claim, reason: str) -> None:
        """Give the task back for another worker to begin at once; no loss is counted.

        One whose job is being canceled ends instead.
        """
        self._hand_over([claim], reason)

    def _hand_over(self, claims: Sequence[Claim], reason: str) -> None:
        released = [claim for claim in claims if self.store.release(claim)]
        self.queue.enqueue([(claim.task.id, claim.fence) for claim in released])
        for claim in released:
            _note("task handed over", claim, reason=reason)

    def _park(self, claimed_task: ClaimedTask, error: MirrorError, *, reason: str) -> None:
        """Let the task wait without a worker."""
        claim = claimed_task.claim
        rest = self.store.parking_time(claim, reason, wait=error.retry_after, patience=error.patience)
        if rest.seconds <= 0:
            self._fail(claim, error, **claimed_task.cost())
            return
        until = timestamp(rest.until)
        waiting_for = WaitingFor(reason, until, error.registry, error.message)
        fails_with = ErrorReport.of(error) if rest.is_last else None
        if self.store.release(claim, wait=rest.seconds, waiting_for=waiting_for, fails_with=fails_with):
            facts = {"source": str(claim.task.spec.source), "code": error.code, "reason": error.message}
            _LOG.warning("task waits", **facts, seconds=round(rest.seconds), until=until)

    def _fail(self, claim: Claim, error: MirrorError, **cost: float) -> None:
        self.store.settle("failed", [(claim, Outcome(error=ErrorReport.of(error)))])
        task = claim.task
        facts = {
            "source": str(task.spec.source),
            "code": error.code,
            "reason": error.message,
            "hint": error.hint,
            **cost,
        }
        _LOG.warning("task failed", job_id=task.job, task_id=task.id, **facts)


def _end_all(claimed_tasks: Iterable[ClaimedTask]) -> None:
    for claimed_task in claimed_tasks:
        claimed_task.end(failed=False)


def _note(event: str, claim: Claim, **facts: object) -> None:
    _LOG.info(event, job_id=claim.task.job, task_id=claim.task.id, **facts)


def _note_unseen(claimed_tasks: Collection[ClaimedTask], error: MirrorError) -> None:
    _LOG.info("tags could not be looked at together", tags=len(claimed_tasks), code=error.code)


def _unchanged(published: TagUpdate) -> Outcome:
    """Nothing was read from the source, nothing written."""
    by = published.superseded_by
    return Outcome(str(published.digest), unchanged=by is None, superseded_by=by)
