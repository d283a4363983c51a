"""Delete mirrored tags that their sources have deleted.

Every step may be repeated, and a process that was frozen may run next to its successor:

- What is known of the targets is written by runs that are ``following`` only (`FollowedTags.write`).
- A deletion takes a number in the sequence of its tag. Then it asks the source for the tag once more. Then it deletes
  the tag under its lease, if that shows what the schedule has mirrored, and if no later change is recorded.
- A deleted target is marked with its run until that has ended, so it is counted once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from typing import Final, Literal

import structlog

from mirror.catalog.delete import Deleter
from mirror.catalog.index import CatalogIndex
from mirror.catalog.tag_change import TagChanges
from mirror.errors import ContentError, ManifestUnknown, MirrorError, RedisUnavailable, SourceError
from mirror.oci.digest import Digest
from mirror.oci.local_image import LocalImage
from mirror.oci.reference import Reference
from mirror.records.followed import FollowedTag, FollowedTags
from mirror.records.run import Run, RunNote
from mirror.records.schedule import Schedule
from mirror.registry.client import RegistryClient
from mirror.schedules.survey import SurveyReader, mirrored_tag
from mirror.schedules.upstream import Decision, decide
from mirror.storage.tombstones import Tombstone, TombstoneStore

UPSTREAM_UNCONFIRMED: Final = "UPSTREAM_UNCONFIRMED"
_DELETED_AT_ONCE: Final = 8
"""Tags that are deleted in parallel. Each takes some requests to its source and to S3."""
_LOG = structlog.get_logger(__name__)

Deletion = Literal["deleted", "served", "changed", "failed"]
"""What became of a tag that was to be deleted.

``served``: its source serves it, though it does not list it. ``changed``: the target shows something else meanwhile.
``failed``: its source could not be asked, or S3 failed.
"""


@dataclass(frozen=True, slots=True)
class UpstreamDeleter:
    """Deletes tags whose sources have deleted theirs. Safe to share between threads."""

    source: RegistryClient
    changes: TagChanges
    deleter: Deleter
    index: CatalogIndex

    def delete(self, target: str, tag: FollowedTag, tombstone: Tombstone | None) -> Deletion:
        """Delete *target*, unless its source serves the tag, or the target shows anything else meanwhile.

        Raises what asking a source raises, TagBusy, StorageUnavailable, StorageRefused or RedisUnavailable.
        """
        image, source = LocalImage.parse(target), Reference.parse(tag.source)
        [change] = self.changes.take_numbers([(image, "delete")])
        if self._is_served(source):
            return "served"
        allowed = partial(self._shows, image, source, tag.digest)
        return "deleted" if self.deleter.delete_unless_changed(change, tombstone, allowed=allowed) else "changed"

    def _is_served(self, source: Reference) -> bool:
        """Ask the source for the tag itself. A list without it may be wrong: a proxy may have cut it off."""
        if self.source.head(source):
            return True
        try:
            with self.source.reading(source) as manifests:
                manifests.get(source)
        except ManifestUnknown:
            return False
        except ContentError:
            return True
        return True

    def _shows(self, target: LocalImage, source: Reference, digest: str, current: Digest | None) -> bool:
        """Whether the target, which shows *current*, shows what was mirrored from *source*."""
        [entry] = self.index.indexed([(target.repository, str(target.tag))])
        return str(current) == digest == mirrored_tag(source, entry).digest


@dataclass(frozen=True, slots=True)
class Followed:
    """What a run has deleted: the *counts* that it shows, a *note*, and the *targets* to forget after its end."""

    counts: Mapping[str, int]
    note: RunNote | None
    targets: Sequence[str]


@dataclass(frozen=True, slots=True)
class Deletions:
    """Does the deletions of runs. Safe to share between threads. *now* is the wall clock."""

    followed: FollowedTags
    surveys: SurveyReader
    deleter: UpstreamDeleter
    tombstones: TombstoneStore
    now: Callable[[], datetime]
    public_host: str

    def decide(self, run: Run, schedule: Schedule) -> Decision:
        """Return what a run finds out of its schedule's targets. Nothing is stored. Raises RedisUnavailable."""
        return self._decide(run, schedule, self.followed.read(schedule.id))

    def follow(self, run: Run, schedule: Schedule, alive: Callable[[], bool]) -> Followed | None:
        """Count the listings of a run, and delete what is due.

        None if *alive* returned False, or another process has ended the run. Raises RedisUnavailable,
        StorageUnavailable or StorageRefused.
        """
        known = self.followed.read(schedule.id)
        decision = self._decide(run, schedule, known)
        new = [LocalImage.parse(target) for target, tag in decision.changes.items() if tag and target not in known]
        self.tombstones.delete_existing((target.repository, str(target.tag)) for target in new)
        if not self.followed.write(schedule.id, run.id, decision.changes):
            return None
        deleted = [target for target, tag in known.items() if tag.deleted_by == run.id]
        errors: dict[str, MirrorError] = {}
        for begin in range(0, len(decision.due), _DELETED_AT_ONCE):
            if not alive() or not self.followed.is_following(run.id):
                return None
            batch = {target: decision.gone[target] for target in decision.due[begin : begin + _DELETED_AT_ONCE]}
            deleted += self._delete(batch, run, schedule, errors)
        return _followed(decision, schedule, deleted, errors)

    def _decide(self, run: Run, schedule: Schedule, known: Mapping[str, FollowedTag]) -> Decision:
        survey = self.surveys.read(str(run.job))
        return decide(known, survey, schedule.definition.upstream, run, self.now(), self.public_host)

    def _delete(
        self, batch: Mapping[str, FollowedTag], run: Run, schedule: Schedule, errors: dict[str, MirrorError]
    ) -> list[str]:
        """Delete these targets, and note what became of them. Return those that are gone.

        Adds to the *errors* of repositories. Those whose sources have failed are not asked again.
        """

        def delete(target: str) -> Deletion:
            tag = batch[target]
            repository = Reference.parse(tag.source).name
            if isinstance(errors.get(repository), SourceError):
                return "failed"
            try:
                return self.deleter.delete(target, tag, self._tombstone(tag, run, schedule))
            except RedisUnavailable:
                raise
            except MirrorError as error:
                errors[repository] = error
                return "failed"

        with ThreadPoolExecutor(_DELETED_AT_ONCE, thread_name_prefix="deletions") as pool:
            results = dict(zip(batch, pool.map(delete, batch), strict=True))
        marks = {target: _marked(batch[target], result, run) for target, result in results.items()}
        self.followed.write(schedule.id, run.id, marks)
        for target, result in results.items():
            facts = {"target": target, "source": batch[target].source, "digest": batch[target].digest, "run": run.id}
            (_LOG.info if result == "deleted" else _LOG.warning)("source has deleted a tag", outcome=result, **facts)
        return [target for target, result in results.items() if result == "deleted"]

    def _tombstone(self, tag: FollowedTag, run: Run, schedule: Schedule) -> Tombstone | None:
        if schedule.definition.upstream.on_delete != "tombstone":
            return None
        return Tombstone(Digest.parse(tag.digest), tag.source, self.now(), schedule.id, run.id)


def _marked(tag: FollowedTag, result: Deletion, run: Run) -> FollowedTag | None:
    """Return what is known of a tag after it was to be deleted. None forgets one that was changed in the mirror."""
    if result == "deleted":
        return replace(tag, deleted_by=run.id)
    if result == "served":
        return replace(tag, missing=0, missing_since=None)
    return tag if result == "failed" else None


def _followed(
    decision: Decision, schedule: Schedule, deleted: Sequence[str], errors: Mapping[str, MirrorError]
) -> Followed:
    is_tombstone = schedule.definition.upstream.on_delete == "tombstone"
    counts = {
        "gone": len(decision.gone.keys() | set(deleted)),
        "deleted": 0 if is_tombstone else len(deleted),
        "tombstoned": len(deleted) if is_tombstone else 0,
        "braked": decision.braked,
    }
    note = decision.note
    if errors and note is None:
        first = next(iter(errors.values()))
        note = RunNote(
            UPSTREAM_UNCONFIRMED, f"Some tags that the source does not list were not deleted: {first.message}"
        )
    return Followed(counts, note, deleted)
