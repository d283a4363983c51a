"""Performing a task: claim it, mirror its image, settle its record. Safe to run twice, and on two machines at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from time import monotonic
from typing import Final, TypeVar

import structlog

from mirror.catalog.entry import Listed
from mirror.catalog.publishing import Publisher
from mirror.catalog.tickets import HeldTags, Published, Ticket
from mirror.coordination.redis import Redis
from mirror.copying.copier import Copier
from mirror.copying.interruption import Interrupted, Interruption
from mirror.copying.resolver import Resolver
from mirror.copying.source import Source
from mirror.errors import (
    BlobUnknown,
    InternalError,
    InvalidInput,
    ManifestUnknown,
    MirrorError,
    RedisUnavailable,
    StorageUnavailable,
)
from mirror.jobs.keeping import CANCELED, FAULTY, LOST, ClaimKeeping
from mirror.jobs.storage_guard import StorageGuard
from mirror.oci.digest import Digest
from mirror.oci.image import Image
from mirror.oci.local_image import LocalImage
from mirror.oci.reference import Reference
from mirror.queue import TaskQueue
from mirror.records.fields import at, timestamp
from mirror.records.store import Claim, JobStore, Outcome
from mirror.records.task import ErrorReport, WaitingFor, registry_of
from mirror.storage.bucket import Bucket
from mirror.storage.provenance import ImageProvenance
from mirror.threads import note_fault

HANDOVER: Final = "the worker is shutting down"
_LOG = structlog.get_logger(__name__)
T = TypeVar("T")


class Errand:
    """A task that this process has claimed, with what it needs until its `Performer` has ended it.

    ``shown`` is the digest with which the index lists its target, and ``listed`` the same if that came from its source.
    ``digest`` is what its source was found to be, once it has been looked at: a hint while only a HEAD has told it.
    ``registry`` is its source's. ``is_trial`` says that it is the one task that tries whether S3 takes writes again.
    """

    def __init__(
        self, claim: Claim, ticket: Ticket, listed: Listed | None, keeping: ClaimKeeping, interruption: Interruption
    ) -> None:
        self.claim = claim
        self.registry = registry_of(claim.task.source)
        self.ticket = ticket
        self.shown = listed.digest if listed else None
        self.listed = listed.digest if listed and listed.is_from(claim.task.source) else None
        self.was_looked_at = False
        self.is_trial = False
        self.digest: Digest | None = None
        self._began = monotonic()
        self._held = ExitStack()
        self.interruption = self._held.enter_context(interruption.part())
        self.keeper = keeping.keep(claim, self.interruption)

    @contextmanager
    def in_this_thread(self) -> Iterator[None]:
        """Work on it in the calling thread: waits end with its interruption, and what is logged names it."""
        self.interruption.adopt()
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
class Performer:
    """What a worker needs to perform tasks; it keeps nothing of one task for the next.

    A task is begun, then mirrored. In between many may be looked at side by side and settled in one go, if their tags
    show already what their sources are. What a task does wrong is never raised, but written to its record. Raised is
    RedisUnavailable alone, when the outcome cannot be noted: then the lease expires and the task is found again.
    """

    store: JobStore
    queue: TaskQueue
    redis: Redis
    keeping: ClaimKeeping
    publisher: Publisher
    source: Source
    bucket: Bucket
    copier: Copier
    storage: StorageGuard

    def begin(
        self, entries: Sequence[tuple[str, int]], interruption: Interruption, *, claimed: Callable[[Claim], None]
    ) -> list[Errand]:
        """Claim the tasks whose queue entries, given as (task id, fence), are not stale.

        *claimed* is told each claim before anything else happens to it, so that a watchdog can give it back.
        """
        claims = self._claimed(entries, claimed)
        try:
            return self._begun(claims, interruption)
        except RedisUnavailable:
            raise
        except Exception as error:  # noqa: BLE001 - one of them is at fault, which is known when each is begun alone
            note_fault("beginning tasks together", error)
        return [errand for claim in claims for errand in self._begun_alone(claim, interruption)]

    def _begun_alone(self, claim: tuple[Claim, LocalImage], interruption: Interruption) -> list[Errand]:
        """The task, or none if it cannot be begun: then it has failed."""
        try:
            return self._begun([claim], interruption)
        except RedisUnavailable:
            raise
        except Exception as error:  # noqa: BLE001 - the others are begun all the same
            note_fault("beginning a task", error, task_id=claim[0].task.id)
            self._fail(claim[0], InternalError())
            return []

    def _begun(self, claims: Sequence[tuple[Claim, LocalImage]], interruption: Interruption) -> list[Errand]:
        tickets = self.publisher.tickets([(target, claim.task.job) for claim, target in claims])
        listed = self.publisher.listed([target for _, target in claims])
        begun = []
        for (claim, _), ticket, found in zip(claims, tickets, listed, strict=True):
            try:
                begun.append(Errand(claim, ticket, found, self.keeping, interruption))
            except Interrupted as interrupted:
                self.hand_over(claim, interrupted.reason)
        return begun

    def _claimed(
        self, entries: Sequence[tuple[str, int]], claimed: Callable[[Claim], None]
    ) -> list[tuple[Claim, LocalImage]]:
        """Each claim with its target; a task whose target is none ends here."""
        found = []
        for (task_id, fence), claim in zip(entries, self.store.claim_all(entries), strict=True):
            if claim is None:
                _LOG.info("stale queue entry", task_id=task_id, fence=fence)
                continue
            claimed(claim)
            try:
                found.append((claim, LocalImage.parse(claim.task.target)))
            except InvalidInput as error:
                self._fail(claim, error)
        return found

    def look(self, errand: Errand) -> bool:
        """Ask the source what it is now; whether the task goes on. Costs no pull quota."""
        with errand.in_this_thread():
            return self._attempted(errand, lambda: self._look(errand)) is not None

    @contextmanager
    def holding(self, errands: Collection[Errand]) -> Iterator[HeldTags | None]:
        """Hold the tags of listed errands, while the bucket is asked which show what the index lists; beside their
        looks. None where there are none, or Redis is away.
        """
        with ExitStack() as stack:
            tags = None
            if errands:
                try:
                    wanted = [(errand.ticket, errand.listed) for errand in errands if errand.listed]
                    tags = stack.enter_context(self.publisher.holding_tags(wanted))
                except MirrorError as error:
                    _note_unseen(errands, error)
                except Exception as error:  # noqa: BLE001 - each is looked at by itself then
                    note_fault("holding tags", error)
            yield tags

    def settle_unchanged(self, errands: Sequence[Errand], tags: HeldTags | None) -> list[Errand]:
        """End those that are held and whose sources are what their tags show. The others are answered: they are to be
        mirrored, which also tells what is wrong with one of them.
        """
        try:
            shown = self._shown(errands, tags)
            outcomes = [(errand.claim, _unchanged(published)) for errand, published in shown]
            _end_all(errand for errand, _ in shown)
            self.store.settle_all("succeeded", outcomes)
        except BaseException:
            _end_all(errands)
            raise
        for (job, unchanged), tasks in Counter((c.task.job, outcome.unchanged) for c, outcome in outcomes).items():
            _LOG.info("tasks succeeded", job_id=job, tasks=tasks, unchanged=unchanged)
        settled = {errand for errand, _ in shown}
        return [errand for errand in errands if errand not in settled]

    def _shown(self, errands: Sequence[Errand], tags: HeldTags | None) -> list[tuple[Errand, Published]]:
        """Those whose tags show what their sources are; none if the bucket did not tell."""
        if tags is None:
            return []
        try:
            found = tags.confirm([(errand.ticket, errand.digest) for errand in errands if errand.digest])
        except RedisUnavailable:
            raise
        except MirrorError as error:
            _note_unseen(errands, error)
            return []
        except Exception as error:  # noqa: BLE001 - the short cut has no errors of its own
            note_fault("looking at tags together", error)
            return []
        return [(errand, published) for errand, published in zip(errands, found, strict=True) if published]

    def mirror(self, errand: Errand) -> None:
        """Copy the image if that is needed, publish it, and end the task."""
        with errand.in_this_thread():
            outcome = self._attempted(errand, lambda: self._mirror(errand))
            if outcome is not None:
                self._succeed(errand, outcome)

    def hand_back(self, errands: Sequence[Errand], reason: str) -> None:
        """Leave tasks that were begun to other workers."""
        _end_all(errands)
        self._hand_over([errand.claim for errand in errands], reason)

    def _attempted(self, errand: Errand, work: Callable[[], T]) -> T | None:
        """What *work* answers; None if that ended the errand, as the task's record says then."""
        try:
            return self._tried(errand, work)
        except RedisUnavailable:
            raise
        except Exception as error:  # noqa: BLE001 - other tasks of this process go on
            note_fault("ending a task", error, task_id=errand.claim.task.id)
            self.store.abandon(errand.claim)
            return None

    def _tried(self, errand: Errand, work: Callable[[], T]) -> T | None:
        claim = errand.claim
        try:
            try:
                errand.interruption.check()
                return work()
            except BaseException:
                errand.end(failed=True)
                raise
        except Interrupted as interrupted:
            self._interrupted(errand, interrupted.reason)
        except RedisUnavailable:
            raise
        except StorageUnavailable as error:
            self.storage.failed(claim, error, errand.keeper.progress.missing())
            self._park(errand, error, reason=error.waits_for or error.code)
        except MirrorError as error:
            if error.waits_for is None:
                self._fail(claim, error, **errand.cost())
            else:
                self._park(errand, error, reason=error.waits_for)
        except Exception:  # noqa: BLE001 - the task's boundary: what escaped would be stored by RQ as a traceback
            _LOG.exception("task failed unexpectedly")
            self._fail(claim, InternalError(), **errand.cost())
        return None

    def _look(self, errand: Errand) -> bool:
        reference = Reference.parse(errand.claim.task.source)
        errand.digest = Resolver(self.source, self.bucket, errand.interruption).digest(reference)
        errand.was_looked_at = True
        return True

    def _mirror(self, errand: Errand) -> Outcome:
        task = errand.claim.task
        _note("task started", errand.claim, source=task.source, target=task.target, attempt=task.attempt)
        reference = Reference.parse(task.source)
        errand.is_trial = self.storage.require(errand.claim)  # before the source is asked for what cannot be stored
        if not errand.was_looked_at:
            self._look(errand)
        hint = errand.digest
        if hint is not None and (shown := self.publisher.confirm(errand.ticket, hint, reference)) is not None:
            return _unchanged(shown)
        try:
            return self._bring(errand, reference, hint)
        except (BlobUnknown, ManifestUnknown) as error:
            if reference.digest or (isinstance(error, ManifestUnknown) and not error.is_child):
                raise
            _LOG.info("a part of the image is gone; its tag is read once more", code=error.code, reason=error.message)
            return self._bring(errand, reference, None, unless_still=(errand.digest, error))

    def _bring(
        self,
        errand: Errand,
        reference: Reference,
        hint: Digest | None,
        *,
        unless_still: tuple[Digest | None, MirrorError] | None = None,
    ) -> Outcome:
        """Read the image, copy what is missing of it and publish it.

        *unless_still* is a digest whose image is known not to be whole, and the error that told so: it is raised if
        that is still what the source has.
        """
        with self.copier.manifest_memory(reference, errand.interruption) as memory:
            resolver = Resolver(self.source, self.bucket, errand.interruption, memory)
            with resolver.resolving(reference, hint) as resolution:
                errand.digest = digest = resolution.root.descriptor.digest
                if unless_still and unless_still[0] == digest:
                    raise unless_still[1]
                errand.keeper.progress.resolved(digest)
                if digest != hint or digest == errand.shown:
                    shown = self.publisher.confirm(errand.ticket, digest, reference, served=True)
                    if shown is not None:
                        return _unchanged(shown)
                image, held = resolution.image(), resolution.held
            return self._copy_and_publish(errand, reference, image, held)

    def _copy_and_publish(self, errand: Errand, reference: Reference, image: Image, held: Sequence[Digest]) -> Outcome:
        """*held* are manifests of the image that were read from the bucket."""
        keeper, interruption = errand.keeper, errand.interruption
        keeper.begin_copying()
        copied = self.copier.copy(
            reference, image, holder=keeper.holder, progress=keeper.progress, interruption=interruption
        )
        keeper.begin_publishing()
        moment = timestamp(at(self.redis.now()))
        origin = ImageProvenance(
            str(reference), image.digest, moment, errand.claim.task.job, held=(*held, *copied.held)
        )
        published = self.publisher.publish(errand.ticket, image.leaving_out(copied.left_out), origin)
        if errand.is_trial:
            self.storage.succeeded(errand.claim)
        return Outcome(str(image.digest), superseded_by=published.superseded_by)

    def _succeed(self, errand: Errand, outcome: Outcome) -> None:
        errand.end(failed=False)
        self.store.settle(errand.claim, "succeeded", outcome)
        facts = {"source": errand.claim.task.source, "digest": outcome.digest, "unchanged": outcome.unchanged}
        _note("task succeeded", errand.claim, **facts, **errand.cost())

    def _interrupted(self, errand: Errand, reason: str) -> None:
        claim = errand.claim
        if reason == LOST:
            _LOG.warning("task was taken away; another worker has it")
        elif reason == FAULTY:
            self.store.abandon(claim)
            facts = {"source": claim.task.source, "code": InternalError.code, "hint": InternalError.hint}
            _LOG.warning("task failed", reason=reason, **facts, **errand.cost())
        elif reason == CANCELED:
            self.store.settle(claim, "canceled", Outcome())
            _note("task canceled", claim, source=claim.task.source, **errand.cost())
        else:
            self.hand_over(claim, reason)

    def hand_over(self, claim: Claim, reason: str) -> None:
        """Give the task back for another worker to begin at once; no loss is counted.

        One whose job is being canceled ends instead.
        """
        self._hand_over([claim], reason)

    def _hand_over(self, claims: Sequence[Claim], reason: str) -> None:
        released = [claim for claim in claims if self.store.release(claim)]
        self.queue.put_all((claim.task.id, claim.fence) for claim in released)
        for claim in released:
            _note("task handed over", claim, reason=reason)

    def _park(self, errand: Errand, error: MirrorError, *, reason: str) -> None:
        """Let the task wait without a worker."""
        claim = errand.claim
        rest = self.store.rest(claim, reason, wait=error.retry_after, patience=error.patience)
        if rest.seconds <= 0:
            self._fail(claim, error, **errand.cost())
            return
        until = timestamp(rest.until)
        waiting_for = WaitingFor(reason, until, error.registry, error.message)
        fails_with = ErrorReport.of(error) if rest.is_last else None
        if self.store.release(claim, wait=rest.seconds, waiting_for=waiting_for, fails_with=fails_with):
            facts = {"source": claim.task.source, "code": error.code, "reason": error.message}
            _LOG.warning("task waits", **facts, seconds=round(rest.seconds), until=until)

    def _fail(self, claim: Claim, error: MirrorError, **cost: float) -> None:
        self.store.settle(claim, "failed", Outcome(error=ErrorReport.of(error)))
        task = claim.task
        facts = {"source": task.source, "code": error.code, "reason": error.message, "hint": error.hint, **cost}
        _LOG.warning("task failed", job_id=task.job, task_id=task.id, **facts)


def _end_all(errands: Iterable[Errand]) -> None:
    for errand in errands:
        errand.end(failed=False)


def _note(event: str, claim: Claim, **facts: object) -> None:
    _LOG.info(event, job_id=claim.task.job, task_id=claim.task.id, **facts)


def _note_unseen(errands: Collection[Errand], error: MirrorError) -> None:
    _LOG.info("tags could not be looked at together", tags=len(errands), code=error.code)


def _unchanged(published: Published) -> Outcome:
    """Nothing was read from the source, nothing written."""
    by = published.superseded_by
    return Outcome(str(published.digest), unchanged=by is None, superseded_by=by)
