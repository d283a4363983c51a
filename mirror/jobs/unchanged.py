"""Find tasks whose target already has what their source has, and settle many of them together.

Most tasks of a schedule have nothing to do. One HEAD to the source and one read of the tag's link in S3 say so. Here
many tasks take these steps together: one round trip to Redis locks their tags, one thread reads their links from S3,
and a few threads for each registry ask the sources. Their outcomes are written in one round trip.

Only S3 and the source decide that a task is unchanged. A wrong entry of the index costs a copy, never a wrong outcome.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from types import TracebackType
from typing import Final, Self, TypeGuard

import structlog

from mirror.background import record_fault
from mirror.catalog.confirm import Confirmer, LockedTags
from mirror.catalog.entry import IndexedTag, is_current
from mirror.catalog.overwrite import decide_overwrite
from mirror.catalog.tag_change import TagUpdate
from mirror.copying.referrers import ReferrerFinder
from mirror.copying.resolver import Resolver
from mirror.errors import MirrorError, RedisUnavailable
from mirror.jobs.claim import ClaimedCopy, ClaimedTask, TaskSettler, tolerate_outage
from mirror.jobs.signatures import SignatureRequirement
from mirror.oci.digest import Digest
from mirror.oci.local_image import LocalImage
from mirror.oci.referrer import hash_of
from mirror.records.claims import Outcome
from mirror.records.spec import CopySpec
from mirror.records.task import ReferrerCounts, Skipped

_THREADS: Final = 12
"""Threads that ask one registry."""
_WAIT_SECONDS: Final = 0.25
"""Seconds for which a batch waits for its sources. A source that is slower is settled with a later batch."""
_LOG = structlog.get_logger(__name__)


def unchanged_outcome(update: TagUpdate, found: Digest | None = None) -> Outcome:
    """Return the outcome of a task that wrote no image. *found* is the digest of its source, if that was asked."""
    by, skipped = update.superseded_by, update.skipped
    source_digest = None if found in (None, update.digest) else str(found)
    unchanged = not (by or skipped)
    return Outcome(str(update.digest), source_digest, unchanged=unchanged, superseded_by=by, skipped=skipped)


def with_referrers(task: ClaimedCopy, outcome: Outcome) -> Outcome:
    """Return the outcome of an unchanged task with what the last look has found: its signature and its referrers."""
    seen = task.held and task.held.referrers
    if seen and task.spec.options.referrers.are_wanted:
        outcome = replace(outcome, referrers=ReferrerCounts(unchanged=seen.count))
    return replace(outcome, signature=task.held.signature) if task.held else outcome


@dataclass(frozen=True, slots=True)
class ReferrerCheck:
    """Says by one look at the source whether an unchanged image has new referrers. Safe to share between threads."""

    finder: ReferrerFinder
    signatures: SignatureRequirement

    def is_current(self, spec: CopySpec, held: IndexedTag | None, since: datetime) -> bool:
        """Return whether the source has no other referrers than at the last look, and no signature is to be checked.

        The caller knows that the image is unchanged, and *since* when it is asked for. False also if a look at the
        referrers of its children is due.
        """
        rules = spec.options.referrers
        if not self.signatures.is_satisfied(spec, held):
            return False
        if not rules.are_wanted:
            return True
        if held is None or held.referrers is None or not held.referrers.suffices(rules.key, since):
            return False
        first = self.finder.first(spec.source, held.digest, since, is_rewritten=held.is_rewritten)
        return held.referrers.first == hash_of(first.lines)


class UnchangedCheck:
    """The tasks of a work horse that are being checked, and the threads that ask their sources.

    A context: its end waits for the threads.
    """

    def __init__(
        self, settler: TaskSettler, confirmer: Confirmer, resolver: Resolver, referrers: ReferrerCheck
    ) -> None:
        self._settler = settler
        self._confirmer = confirmer
        self._resolver = resolver
        self._referrers = referrers
        self._lookups: dict[Future[bool], ClaimedCopy] = {}
        self._current: list[ClaimedCopy] = []
        self._threads = ExitStack()
        self._pools: dict[str, ThreadPoolExecutor] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._threads.close()

    @property
    def lookups(self) -> Mapping[Future[bool], ClaimedCopy]:
        """The requests to sources that are under way or have just ended."""
        return self._lookups

    @property
    def is_empty(self) -> bool:
        """Whether no task is being checked."""
        return not self._lookups and not self._current

    @staticmethod
    def accepts(task: ClaimedTask) -> TypeGuard[ClaimedCopy]:
        """Return whether a check makes sense: the task is unchanged if its source still has what the mirror holds.

        Or it is skipped if the mirror still holds it.
        """
        if not isinstance(task, ClaimedCopy) or task.held is None or task.spec.is_dry_run or task.spec.is_staged:
            return False
        overwrite = task.spec.options.overwrite
        return overwrite == "never" or (overwrite != "always" and is_current(task.spec, task.held.made_from, task.held))

    def settle(self, new: Sequence[ClaimedCopy]) -> list[ClaimedCopy]:
        """Check *new* tasks too, and settle all that are unchanged. Return the tasks to be copied.

        A task whose source has not responded yet stays here. Its outcome comes from a later call.
        """
        asked = [task for task in new if task.spec.options.overwrite != "never"]
        changed = self._collect() + self._settle_existing([task for task in new if task not in asked])
        batch = [*self._current, *asked]  # in the order of their numbers in the sequences of tags
        with self._locked(batch) as tags:  # S3 is read in parallel to the lookups, which would slow it down if first
            wait(self._look_up(asked), _WAIT_SECONDS)
            changed += self._collect()
            return changed + self._settle_current(set(batch), tags)

    def _settle_existing(self, tasks: Sequence[ClaimedCopy]) -> list[ClaimedCopy]:
        """Settle the tasks that leave their tags alone, because the bucket has those. Return the rest of them.

        Their sources are not asked.
        """
        left: list[ClaimedCopy] = []
        if tasks:
            with _settling(tasks):
                skipped = _left_alone(self._confirmer, tasks)
                self._settler.succeed_unchanged([(task, unchanged_outcome(update)) for task, update in skipped.items()])
                left = [task for task in tasks if task not in skipped]
        return left

    def _look_up(self, tasks: Sequence[ClaimedCopy]) -> list[Future[bool]]:
        lookups = {self._pool(task.origin.registry).submit(self._find_digest, task): task for task in tasks}
        self._lookups |= lookups
        return list(lookups)

    def _pool(self, registry: str) -> ThreadPoolExecutor:
        """Return the threads of one registry. So a slow registry does not delay the others."""
        if registry not in self._pools:
            made = ThreadPoolExecutor(_THREADS, thread_name_prefix="lookup")
            self._pools[registry] = self._threads.enter_context(made)
        return self._pools[registry]

    def _find_digest(self, task: ClaimedCopy) -> bool:
        """In a thread of its own. Returns whether the work on the task goes on."""
        found = None
        with task.in_this_thread(), tolerate_outage([task.id]):
            found = self._settler.attempt(task, partial(_ask_source, task, self._resolver, self._referrers))
        return found is not None

    def _collect(self) -> list[ClaimedCopy]:
        """Take the lookups that have ended. Return the tasks to be copied. The others join the current ones."""
        ended = {future: self._lookups.pop(future) for future in list(self._lookups) if future.done()}
        tasks = [task for future, task in ended.items() if future.result()]
        current = [task for task in tasks if task.are_referrers_current]
        self._current += current
        return [task for task in tasks if task not in current]

    @contextmanager
    def _locked(self, tasks: Sequence[ClaimedCopy]) -> Iterator[LockedTags | None]:
        """Lock the tags of *tasks*, and begin to read from S3 which of them match the index.

        Yields None if there are no tasks, or if that fails. Then each task is copied by itself, which shows the error.
        """
        with ExitStack() as stack:
            tags = None
            try:
                wanted = [(task.change, task.held.digest) for task in tasks if task.held]
                tags = stack.enter_context(self._confirmer.lock_tags(wanted)) if wanted else None
            except MirrorError as error:
                _note_failure(tasks, error)
            except Exception as error:  # noqa: BLE001 - each is copied by itself then
                record_fault("locking tags", error)
            yield tags

    def _settle_current(self, batch: AbstractSet[ClaimedCopy], tags: LockedTags | None) -> list[ClaimedCopy]:
        """Settle the current tasks of *batch* whose tags match the index. Return the rest of them, to be copied."""
        tasks = [task for task in self._current if task in batch]
        self._current = [task for task in self._current if task not in batch]
        left: list[ClaimedCopy] = []
        if tasks:
            with _settling(tasks):
                updates = self._confirm(tasks, tags)
                self._settler.succeed_unchanged(
                    [
                        (task, with_referrers(task, unchanged_outcome(update, task.digest)))
                        for task, update in updates.items()
                    ]
                )
                left = [task for task in tasks if task not in updates]
        return left

    def _confirm(self, tasks: Sequence[ClaimedCopy], tags: LockedTags | None) -> dict[ClaimedCopy, TagUpdate]:
        """Return the tasks whose tags match the index. None do if S3 could not be read. Raises RedisUnavailable."""
        if tags is None:
            return {}
        try:
            updates = tags.confirm([(task.change, task.held.digest) for task in tasks if task.held])
        except RedisUnavailable:
            raise
        except MirrorError as error:
            _note_failure(tasks, error)
            return {}
        except Exception as error:  # noqa: BLE001 - each is copied by itself then
            record_fault("confirming tags", error)
            return {}
        return {task: update for task, update in zip(tasks, updates, strict=True) if update}


def _ask_source(task: ClaimedCopy, resolver: Resolver, referrers: ReferrerCheck) -> bool:
    """Ask the source for the digest, and for the referrers of what the mirror has. Returns True."""
    task.look_up(resolver)
    if task.digest and is_current(task.spec, task.digest, task.held):
        task.are_referrers_current = referrers.is_current(task.spec, task.held, task.claim.task.created_at)
    return True


def _note_failure(tasks: Sequence[ClaimedCopy], error: MirrorError) -> None:
    _LOG.info("tags could not be checked together", tags=len(tasks), code=error.code)


@contextmanager
def _settling(tasks: Sequence[ClaimedCopy]) -> Iterator[None]:
    """Tolerate an outage of Redis in the block. The work on *tasks* ends with any error."""
    with tolerate_outage(task.id for task in tasks):
        try:
            yield
        except BaseException:
            for task in tasks:
                task.end()
            raise


def _left_alone(confirmer: Confirmer, tasks: Sequence[ClaimedCopy]) -> dict[ClaimedCopy, TagUpdate]:
    """Return the tasks whose tags are left alone, because the bucket has them. None are if S3 could not be read."""
    held = {task.spec.target: task.held.digest for task in tasks if task.held}
    existing: AbstractSet[LocalImage] = frozenset()
    try:
        existing = confirmer.existing(held)
    except MirrorError as error:
        _note_failure(tasks, error)
    except Exception as error:  # noqa: BLE001 - each is looked at by itself then
        record_fault("looking for tags", error)
    return {
        task: TagUpdate(held[target], skipped=decision)
        for task in tasks
        if (target := task.spec.target) in existing
        and isinstance(decision := decide_overwrite(task.spec.options, target, held[target], None), Skipped)
    }
