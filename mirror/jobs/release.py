"""Run the release of an atomic job, and finish the releases that dead processes have left.

The release task of a job is queued when all of its images were copied. It moves their tags together
(mirror.catalog.release). A cancellation stops it before the journal is written. After that it is too late: the release
goes on, and the job ends as the release ends.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from time import monotonic
from typing import Final

import structlog

from mirror.catalog.overwrite import FoundImage
from mirror.catalog.release import ReleaseFate, Releaser
from mirror.catalog.released_images import ReleasedImages, StagedTag
from mirror.catalog.tag_change import LEASE_SECONDS, TagChange
from mirror.errors import JobUnknown, MirrorError, ReleaseTooLarge, TargetRepeated
from mirror.jobs.claim import ClaimedTask
from mirror.oci.digest import Digest
from mirror.records.claims import Outcome
from mirror.records.jobs import JobStore
from mirror.records.spec import CopySpec
from mirror.records.states import UNFINISHED
from mirror.records.task import Task
from mirror.storage.releases import MOST_TAGS, ReleaseJournals

_PAGE: Final = 200
_LOG = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class JobReleaser:
    """Runs release tasks."""

    jobs: JobStore
    images: ReleasedImages
    releaser: Releaser

    def release(self, task: ClaimedTask) -> Outcome:
        """Move the tags of the job of *task*. Raises what `TaskSettler.attempt` settles.

        Everything is pinned before it is looked for, as the copies' pins have ended with their tasks.
        """
        job = task.claim.task.job
        staged = self._staged(job)
        self.releaser.require_latest(staged)
        task.heartbeat.begin_copying()
        self.images.require_held(task.heartbeat.holder, staged, task.cancellation.check)
        window = self.releaser.release(job, staged, task.heartbeat.begin_publishing) if staged else 0
        return Outcome(release_window=window)

    def _staged(self, job: str) -> list[StagedTag]:
        """Return the tags that the job has staged. Raises ReleaseTooLarge or TargetRepeated."""
        found: dict[tuple[str, str], StagedTag] = {}
        after, count = None, 0
        while page := self.jobs.tasks(job, _PAGE, after=after):
            after = page[-1].id
            for tag in filter(None, map(_staged_tag, page)):
                count += 1
                if tag.change.tag in found:
                    raise TargetRepeated(str(tag.change.target))
                if count <= MOST_TAGS:
                    found[tag.change.tag] = tag
        if count > MOST_TAGS:
            raise ReleaseTooLarge(count, MOST_TAGS)
        return list(found.values())


class StrandedReleases:
    """Finishes releases whose job has ended without them, or is gone with the data of Redis.

    A journal is left alone for *wait* seconds after it was found. So the last write of the process that wrote it has
    ended, even if Redis lost all leases.
    """

    def __init__(
        self, jobs: JobStore, journals: ReleaseJournals, releaser: Releaser, *, wait: float = LEASE_SECONDS
    ) -> None:
        self._jobs = jobs
        self._journals = journals
        self._releaser = releaser
        self._wait = wait
        self._found_at: dict[str, float] = {}

    def finish(self, alive: Callable[[], bool]) -> None:
        """Finish what was found long enough ago. *alive* is called before each. Raises StorageUnavailable."""
        self._found_at = {job: self._found_at.get(job, monotonic()) for job in self._journals.jobs()}
        for job, found_at in self._found_at.items():
            if monotonic() - found_at < self._wait:
                continue
            if not alive():
                return
            try:
                self._releaser.recover(job, partial(self._fate, job))
            except MirrorError as error:
                _LOG.warning("a release is not finished yet", job_id=job, code=error.code, reason=error.message)

    def _fate(self, job_id: str) -> ReleaseFate:
        try:
            state = self._jobs.job(job_id).state
        except JobUnknown:
            return "lost"
        if state in UNFINISHED:
            return "open"
        return "moving" if state == "succeeded" else "undoing"


def _staged_tag(task: Task) -> StagedTag | None:
    """Return the tag that a task has staged, None if it has staged none."""
    if task.staged is None or task.digest is None or not isinstance(task.spec, CopySpec):
        return None
    change = TagChange(task.spec.target, task.staged, task.job)
    source_digest = Digest.parse(task.source_digest or task.digest)
    found = FoundImage(str(task.spec.source), source_digest, Digest.parse(task.digest))
    return StagedTag(change, found, task.spec.options)
