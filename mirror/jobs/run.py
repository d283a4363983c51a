"""Run one claimed task: copy its image, publish it, and settle the task.

Running a task twice is safe, even on two machines at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import structlog

from mirror.catalog.attest import Attester
from mirror.catalog.confirm import Confirmer
from mirror.catalog.publish import Publisher
from mirror.catalog.tag_change import TagUpdate
from mirror.copying.copier import Copier
from mirror.copying.memory import ManifestMemory
from mirror.copying.resolver import Resolver
from mirror.errors import BlobUnknown, ImageNotHeld, ManifestUnknown, MirrorError
from mirror.jobs.claim import ClaimedCopy, ClaimedTask, TaskSettler, tolerate_outage
from mirror.jobs.expand import Expander
from mirror.jobs.plan import ImagePlanner
from mirror.jobs.referrers import ReferrerCopier
from mirror.jobs.release import JobReleaser
from mirror.jobs.signatures import SignatureRequirement
from mirror.jobs.storage_guard import StorageGuard
from mirror.jobs.unchanged import unchanged_outcome, with_referrers
from mirror.oci.digest import Digest
from mirror.oci.image import Image
from mirror.oci.reference import Reference
from mirror.records.claims import Outcome
from mirror.records.fields import timestamp
from mirror.records.spec import ExpandSpec, ReleaseSpec
from mirror.records.task import Skipped
from mirror.signatures.policy import SignatureVerdict
from mirror.storage.provenance import ImageProvenance

_LOG = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class TaskRunner:
    """Runs claimed tasks of every kind. Keeps nothing from one task for the next."""

    settler: TaskSettler
    copies: ImageCopier
    expander: Expander
    planner: ImagePlanner
    releases: JobReleaser

    def run(self, task: ClaimedTask) -> None:
        """Do the work of the task and settle it. Raises nothing."""
        with task.in_this_thread(), tolerate_outage([task.id]):
            outcome = self.settler.attempt(task, lambda: self._outcome(task))
            if outcome is not None:
                self.settler.succeed(task, outcome)

    def _outcome(self, task: ClaimedTask) -> Outcome:
        spec = task.claim.task.spec
        if isinstance(task, ClaimedCopy):
            if task.spec.is_dry_run:
                return self.planner.plan(task)
            outcome = self.copies.copy(task)
            return _staged(task, outcome) if task.spec.is_staged else outcome
        if isinstance(spec, ExpandSpec):
            return self.expander.expand(task, spec)
        if isinstance(spec, ReleaseSpec):
            return self.releases.release(task)
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class ImageCopier:
    """Copies the image of a claimed task and publishes it."""

    confirmer: Confirmer
    publisher: Publisher
    resolver: Resolver
    copier: Copier
    referrers: ReferrerCopier
    signatures: SignatureRequirement
    storage: StorageGuard
    attester: Attester | None = None

    def copy(self, task: ClaimedCopy) -> Outcome:
        """Copy the image if that is needed, and publish it. Raises what `TaskSettler.attempt` settles."""
        record, reference = task.claim.task, task.spec.source
        facts = {"source": str(reference), "target": str(task.spec.target), "attempt": record.attempt}
        _LOG.info("task started", job_id=record.job, task_id=record.id, **facts)
        if (update := self.confirmer.left_alone(task.change, task.spec, None)) is not None:
            return unchanged_outcome(update)
        task.is_trial = self.storage.require(task.claim)  # before the source is asked for what cannot be stored
        if not task.was_looked_up:
            task.look_up(self.resolver)
        hint = task.digest
        if hint is not None and (outcome := self._unchanged(task, self._confirmed(task, hint), hint)):
            return outcome
        try:
            return self._copy(task, reference, hint)
        except BlobUnknown as error:
            missing: MirrorError = error
        except ManifestUnknown as error:
            if not error.is_child:
                raise
            missing = error
        if reference.digest:
            raise missing
        _LOG.info("a part of the image is gone, the tag is read once more", code=missing.code, reason=missing.message)
        return self._copy(task, reference, None, incomplete=(task.digest, missing))

    def _copy(
        self,
        task: ClaimedCopy,
        reference: Reference,
        hint: Digest | None,
        *,
        incomplete: tuple[Digest | None, MirrorError] | None = None,
    ) -> Outcome:
        """Read the image, copy what the bucket does not hold, and publish it.

        *incomplete* is a digest whose image lacks a part, and the error that said so. The error is raised if the source
        still has that digest.
        """
        with self.copier.manifest_memory(reference, task.cancellation) as memory:
            with self.resolver.resolving(reference, hint, task.cancellation, memory) as resolution:
                task.digest = digest = resolution.root.descriptor.digest
                if incomplete and incomplete[0] == digest:
                    raise incomplete[1]
                rules = task.spec.options.platforms
                if reason := resolution.skip_reason(rules):
                    return Outcome(source_digest=str(digest), skipped=Skipped("platform_not_wanted", reason))
                task.heartbeat.progress.resolved(digest)
                update = None
                if digest != hint or (task.held and task.held.made_from == digest):
                    update = self._confirmed(task, digest, served=True)
                update = update or self.confirmer.left_alone(task.change, task.spec, digest)
                if outcome := self._unchanged(task, update, digest):
                    return outcome
                signature = self.signatures.verify(task, digest, memory)
                image, held = resolution.image(rules), resolution.held
            outcome = self._copy_and_publish(task, digest, image, held, signature, memory)
            return replace(outcome, signature=signature)

    def _unchanged(self, task: ClaimedCopy, update: TagUpdate | None, found: Digest) -> Outcome | None:
        """Return the outcome of a task whose image is not copied. Its source may have new referrers of it.

        None without an *update*, and if the bucket has lost the image's manifest: then the image is copied.
        """
        if update is None:
            return None
        outcome = unchanged_outcome(update, found)
        if not outcome.unchanged:
            return outcome
        if task.are_referrers_current:
            return with_referrers(task, outcome)
        try:
            return self._refreshed(task, outcome, update.digest, found)
        except ImageNotHeld as error:
            _LOG.warning("the bucket has lost a part of the image, which is copied again", reason=error.message)
            return None

    def _refreshed(self, task: ClaimedCopy, outcome: Outcome, shown: Digest, found: Digest) -> Outcome:
        """Verify the signature of an unchanged image if that is due, and copy its new referrers. Raises ImageNotHeld.

        The target shows *shown*, and the source has *found*. They differ for an image that was rewritten.
        """
        fetched = signature = None
        with self.copier.manifest_memory(task.spec.source, task.cancellation) as memory:
            if self.signatures.is_satisfied(task.spec, task.held):
                outcome = with_referrers(task, outcome)
            else:
                signature = self.signatures.verify(task, found, memory)
                outcome = replace(outcome, signature=signature)
            if task.spec.options.referrers.are_wanted:
                fetched = self.referrers.refresh(task, shown, memory)
                outcome = replace(outcome, referrers=self.referrers.publish(task, fetched))
        if self.attester and fetched:
            self.attester.give_way(task.change.target.repository, shown, by=task.claim.task.job)
        if fetched or signature:
            self.confirmer.note_referrers(task.change.target, shown, fetched.seen if fetched else None, signature)
        return outcome

    def _confirmed(self, task: ClaimedCopy, digest: Digest, *, served: bool = False) -> TagUpdate | None:
        """Confirm that the target shows *digest* already. None if it is to be published, also if that is once more."""
        if task.spec.options.overwrite == "always":
            return None
        return self.confirmer.confirm(task.change, digest, task.spec, served=served)

    def _copy_and_publish(
        self,
        task: ClaimedCopy,
        found: Digest,
        image: Image,
        held: Sequence[Digest],
        signature: SignatureVerdict | None,
        memory: ManifestMemory,
    ) -> Outcome:
        """Copy the blobs of *image* and its referrers, and publish them.

        *found* is the digest of the source, and *held* are manifests that were read from the bucket.
        """
        heartbeat, reference, options = task.heartbeat, task.spec.source, task.spec.options
        heartbeat.begin_copying()
        copied = self.copier.copy(
            reference,
            image,
            foreign_layers=options.foreign_layers,
            holder=heartbeat.holder,
            progress=heartbeat.progress,
            cancellation=task.cancellation,
        )
        fetched = None
        if options.referrers.are_wanted:
            is_rewritten = options.platforms.mode == "rewrite" and image.digest != found
            fetched = self.referrers.fetch(task, image, memory, is_rewritten=is_rewritten)
        heartbeat.begin_publishing()
        moment = timestamp(self.referrers.finder.now())
        manifests = {manifest.descriptor.digest for manifest in image.manifests}
        read_here = (*(digest for digest in held if digest in manifests), *copied.held)
        image = image.leaving_out(copied.left_out)
        foreign_layers = options.foreign_layers if copied.lacks_foreign_layers else "all"
        origin = ImageProvenance(str(reference), found, moment, task.claim.task.job, read_here, signature=signature)
        origin = replace(origin, platforms=options.platforms.key, foreign_layers=foreign_layers)
        if fetched:
            if fetched.own:  # a list names only what can be read
                self.publisher.stage(task.change.target, image, origin)
            self.referrers.publish(task, fetched)
            origin = replace(origin, referrers=fetched.seen)
        update = self._publish(task, image, origin)
        if task.is_trial:
            self.storage.succeeded(task.claim)
        return replace(unchanged_outcome(update, found), unchanged=False, referrers=fetched.counts if fetched else None)

    def _publish(self, task: ClaimedCopy, image: Image, origin: ImageProvenance) -> TagUpdate:
        """Publish the image. That of an atomic job is published without its tag, which its release moves."""
        if self.attester:  # first, so that the tag never shows an image without its statement
            self.attester.attest(task.change.target, image, origin, holder=task.heartbeat.holder)
        if not task.spec.is_staged:
            return self.publisher.publish(task.change, image, origin, options=task.spec.options)
        self.publisher.stage(task.change.target, image, origin)
        return TagUpdate(image.digest)


def _staged(task: ClaimedCopy, outcome: Outcome) -> Outcome:
    """Return the outcome with the number of the tag's change, for the release.

    The release itself looks for later changes. A skipped image is not part of it, nor is one without a tag.
    """
    if outcome.skipped or task.change.target.tag is None:
        return outcome
    return replace(outcome, staged=task.change.number, superseded_by=None)
