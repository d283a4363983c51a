"""Performing a task: claim it, mirror its image, settle its record. Safe to run twice, and on two machines at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from math import inf
from typing import Final

import structlog

from mirror.catalog.publishing import Publisher, Ticket
from mirror.coordination import keys
from mirror.coordination.pins import Pins
from mirror.coordination.redis import Redis
from mirror.copying.copier import Copier
from mirror.copying.interruption import Interrupted, Interruption
from mirror.copying.resolver import Resolver
from mirror.copying.source import Source
from mirror.errors import InternalError, MirrorError, RedisUnavailable
from mirror.jobs.keeping import CANCELED, LOST, ClaimKeeper
from mirror.oci.digest import Digest
from mirror.oci.local_image import LocalImage
from mirror.oci.reference import Reference
from mirror.queue import TaskQueue
from mirror.records.fields import at, timestamp
from mirror.records.store import Claim, JobStore, Outcome
from mirror.records.task import ErrorReport, WaitingFor
from mirror.storage.blobs import BlobStore
from mirror.storage.provenance import ImageProvenance

HANDOVER: Final = "the worker is shutting down"
_QUIET_SECONDS: Final = 600
_LOG = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Performer:
    """What a worker needs to perform tasks; it keeps nothing of one task for the next."""

    store: JobStore
    queue: TaskQueue
    redis: Redis
    pins: Pins
    publisher: Publisher
    source: Source
    blobs: BlobStore
    copier: Copier

    def perform(
        self, task_id: str, fence: int, interruption: Interruption, *, claimed: Callable[[Claim], None]
    ) -> None:
        """Work on the task if its queue entry is not stale; never raises what the task did.

        *claimed* is told the claim before the work begins, so that a watchdog can give it back.

        Raises RedisUnavailable alone, when the outcome cannot be noted: then the lease expires and the task is found
        again.
        """
        claim = self.store.claim(task_id, fence)
        if claim is None:
            _LOG.info("stale queue entry", task=task_id, fence=fence)
            return
        claimed(claim)
        with structlog.contextvars.bound_contextvars(job_id=claim.task.job, task_id=task_id):
            _LOG.info("task started", source=claim.task.source, target=claim.task.target, attempt=claim.task.attempt)
            self._perform(claim, interruption)

    def _perform(self, claim: Claim, interruption: Interruption) -> None:
        try:
            with ClaimKeeper(self.store, self.pins, claim, interruption) as keeper:
                outcome = self._mirror(claim, keeper, interruption)
        except Interrupted as interrupted:
            self._interrupted(claim, interrupted.reason)
        except RedisUnavailable:
            raise
        except MirrorError as error:
            if error.waits_for is None:
                self._fail(claim, error)
            else:
                self._park(claim, error, reason=error.waits_for)
        except Exception:  # noqa: BLE001 - the task's boundary: what escaped would be stored by RQ as a traceback
            _LOG.exception("task failed unexpectedly")
            self._fail(claim, InternalError())
        else:
            self.store.settle(claim, "succeeded", outcome)
            _LOG.info("task succeeded", digest=outcome.digest, unchanged=outcome.unchanged)

    def _mirror(self, claim: Claim, keeper: ClaimKeeper, interruption: Interruption) -> Outcome:
        reference, target = Reference.parse(claim.task.source), LocalImage.parse(claim.task.target)
        ticket = self.publisher.ticket(target, claim.task.job)
        resolver = Resolver(self.source, self.blobs, interruption)
        digest = resolver.digest(reference)
        if digest is not None:
            keeper.progress.resolved(digest)
            if (outcome := self._unchanged(ticket, digest)) is not None:
                return outcome
        image = resolver.image(reference, digest)
        keeper.progress.resolved(image.digest)
        keeper.begin_copying()
        self.copier.copy(reference, image, holder=keeper.holder, progress=keeper.progress, interruption=interruption)
        keeper.begin_publishing()
        moment = timestamp(at(self.redis.now()))
        origin = ImageProvenance(str(reference), image.digest, moment, claim.task.job)
        published = self.publisher.publish(ticket, image, origin)
        return Outcome(str(image.digest), superseded_by=published.superseded_by)

    def _unchanged(self, ticket: Ticket, digest: Digest) -> Outcome | None:
        """The outcome if the target shows the digest already: nothing is read from the source, nothing written."""
        published = self.publisher.confirm(ticket, digest)
        if published is None:
            return None
        return Outcome(str(digest), unchanged=published.superseded_by is None, superseded_by=published.superseded_by)

    def _interrupted(self, claim: Claim, reason: str) -> None:
        if reason == LOST:
            _LOG.warning("task was taken away; another worker has it")
        elif reason == CANCELED:
            self.store.settle(claim, "canceled", Outcome())
            _LOG.info("task canceled")
        else:
            self.hand_over(claim, reason)

    def hand_over(self, claim: Claim, reason: str) -> None:
        """Give the task back for another worker to begin at once; no loss is counted.

        One whose job is being canceled ends instead.
        """
        if self.store.release(claim):
            self.queue.put(claim.task.id, claim.fence)
            _LOG.info("task handed over", reason=reason)

    def _park(self, claim: Claim, error: MirrorError, *, reason: str) -> None:
        """Let the task wait without a worker."""
        now = at(self.redis.now())
        if self._is_out_of_patience(claim, error):
            self._fail(claim, error)
            return
        seconds = max(1.0, error.retry_after)
        until = timestamp(now + timedelta(seconds=seconds))
        if self.store.release(claim, wait=seconds, waiting_for=WaitingFor(reason, until, error.registry)):
            _LOG.warning("task waits", code=error.code, reason=error.message, until=until)

    def _is_out_of_patience(self, claim: Claim, error: MirrorError) -> bool:
        """Whether the task met such an error for the first time too long ago; after a quiet time it begins anew."""
        if error.patience == inf:
            return False
        now, key = self.redis.now(), keys.task_waits_since(claim.task.id)
        self.redis.call("SET", key, now, "NX", "EX", int(error.patience + _QUIET_SECONDS))
        return now - int(self.redis.call("GET", key) or now) > error.patience * 1000

    def _fail(self, claim: Claim, error: MirrorError) -> None:
        self.store.settle(claim, "failed", Outcome(error=ErrorReport.of(error)))
        _LOG.warning("task failed", code=error.code, reason=error.message)
