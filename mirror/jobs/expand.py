"""Expand a source: choose tags or repositories, settle what is unchanged, and add tasks for the rest to the job.

The selection is stored first, and then worked through in parts. Each part is added to the job by one script, together
with the number of the part. So a worker that takes the task over continues with the next part, and no image is added or
counted twice. The tasks of a part are released while later parts are still looked up.

Most tags of a schedule are unchanged. Here many are checked together, as in `mirror.jobs.unchanged`: a number in the
sequence of each tag, one HEAD to the source, one look at the bucket. They get no task of their own. A tag that cannot
be checked gets a task, which then says why.

All targets are claimed before the first part is added. So no two expansions of a job copy to one target.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import structlog

from mirror.catalog.confirm import Confirmer
from mirror.catalog.entry import IndexedTag, is_current
from mirror.catalog.tag_change import TagChange, TagChanges
from mirror.copying.cancellation import Cancellation, OperationCanceled
from mirror.copying.naming import TargetNamer
from mirror.errors import MirrorError, ReleaseTooLarge, TargetsInvalid
from mirror.jobs.choose import TARGET_RULE, Chooser, lookup_threads
from mirror.jobs.claim import ClaimedTask
from mirror.jobs.heartbeat import CANCELED, LOST
from mirror.jobs.measure import SelectionMeter
from mirror.jobs.unchanged import ReferrerCheck
from mirror.oci.digest import Digest
from mirror.oci.local_image import LocalImage
from mirror.oci.reference import Reference
from mirror.queue import TaskQueue
from mirror.records.claims import ClaimState, Outcome
from mirror.records.ids import ulid_of
from mirror.records.rules import CopyOptions
from mirror.records.selections import Choice, SelectionStore
from mirror.records.spec import CopySpec, ExpandSpec, TaskSpec
from mirror.records.targets import JobTargets
from mirror.registry.client import RegistryClient
from mirror.storage.releases import MOST_TAGS

_MEASURED_AT_ONCE: Final = 200
_LOG = structlog.get_logger(__name__)


class Expander:
    """Runs tasks that expand a source. Safe to share between threads. *public_host* is the mirror's own host name."""

    def __init__(
        self,
        chooser: Chooser,
        selections: SelectionStore,
        targets: JobTargets,
        unchanged: UnchangedTags,
        meter: SelectionMeter,
        queue: TaskQueue,
        public_host: str,
    ) -> None:
        self._chooser = chooser
        self._selections = selections
        self._targets = targets
        self._unchanged = unchanged
        self._meter = meter
        self._queue = queue
        self._public_host = public_host

    def expand(self, task: ClaimedTask, spec: ExpandSpec) -> Outcome:
        """Choose, if that is not done yet, and add what is left to add.

        Raises TargetRepeated, SelectionTooLarge or ReleaseTooLarge before anything is added. Raises TargetsInvalid
        after everything else was added.
        """
        expansion = task.claim.task.expansion
        _LOG.info("source is expanded", source=str(spec.source), parts=expansion.parts, added=expansion.added)
        selection, parts = expansion.selection, expansion.parts
        if selection is None:
            chosen = self._chooser.choose(spec, self._namer(task), task.cancellation)
            selection, parts = chosen.summary(), self._selections.parts(len(chosen.choices))
            if spec.is_staged and selection["selected"] * len(spec.targets) > MOST_TAGS:
                raise ReleaseTooLarge(selection["selected"] * len(spec.targets), MOST_TAGS)
            _require_held(self._targets.claim(task.claim, chosen.targets))
            self._require_few_bytes(task, spec, chosen.choices)
            _require_held(self._selections.keep(task.claim, chosen.choices, selection))
            _LOG.info("source was listed", source=str(spec.source), **selection)
        for number in range(expansion.added, parts):
            task.cancellation.check()
            self._add_part(task, spec, number)
        if refused := selection["dropped"].get(TARGET_RULE):
            raise TargetsInvalid(str(spec.source), refused, self._first_refused(task.id, parts))
        return Outcome()

    def _require_few_bytes(self, task: ClaimedTask, spec: ExpandSpec, choices: Sequence[Choice]) -> None:
        """Raise SelectionTooLarge if the chosen images need more bytes than `max_bytes`."""
        if spec.tags.max_bytes is not None and not spec.source.is_wildcard:
            images = self._images(task, spec, [choice for choice in choices if choice.rule is None])
            self._meter.require_at_most(spec.tags.max_bytes, str(spec.source), images, task.cancellation)

    def _images(self, task: ClaimedTask, spec: ExpandSpec, chosen: Sequence[Choice]) -> Iterator[list[CopySpec]]:
        """Yield for each chosen tag its copies: one for each target."""
        for begin in range(0, len(chosen), _MEASURED_AT_ONCE):
            copies = self._copies(task, spec, chosen[begin : begin + _MEASURED_AT_ONCE])
            of_sources: dict[Reference, list[CopySpec]] = {}
            for copy in copies:
                of_sources.setdefault(copy.source, []).append(copy)
            yield from of_sources.values()

    def _add_part(self, task: ClaimedTask, spec: ExpandSpec, number: int) -> None:
        """Add one part of the selection to the job."""
        chosen = [choice for choice in self._selections.part(task.id, number) if choice.rule is None]
        if spec.source.is_wildcard:
            specs: list[TaskSpec] = [_of_repository(spec, choice.name) for choice in chosen]
            settled = 0
        else:
            copies = self._copies(task, spec, chosen)
            left = copies if spec.is_dry_run or spec.is_staged else self._unchanged.left_of(task, copies, spec.options)
            specs, settled = list(left), len(copies) - len(left)
        skipped = settled if spec.options.overwrite == "never" else 0
        state, entries = self._selections.add_part(
            task.claim, number + 1, specs, unchanged=settled - skipped, skipped=skipped
        )
        _require_held(state)
        self._queue.enqueue(entries)

    def _copies(self, task: ClaimedTask, spec: ExpandSpec, chosen: Sequence[Choice]) -> list[CopySpec]:
        """Return a copy for each chosen tag and each target."""
        sources = [
            replace(spec.source.tagged(choice.name), digest=Digest.parse(choice.digest) if choice.digest else None)
            for choice in chosen
        ]
        chosen_by = {choice.name: choice.detail for choice in chosen}
        return [
            CopySpec(source, name, spec.options, chosen_by[str(source.tag)], spec.is_dry_run, spec.is_staged)
            for source, name in self._namer(task).assign([(source, source.digest) for source in sources], spec.targets)
            if isinstance(name, LocalImage)
        ]

    def _namer(self, task: ClaimedTask) -> TargetNamer:
        """Return what names the targets. A date in them is that of the job, whose id has it."""
        return TargetNamer(self._public_host, ulid_of(task.claim.task.job).datetime)

    def _first_refused(self, task_id: str, parts: int) -> str:
        """Return the first tag that has no valid target, with the reason."""
        choices = (choice for number in range(parts) for choice in self._selections.part(task_id, number))
        return next(f"{choice.name}: {choice.detail}" for choice in choices if choice.rule == TARGET_RULE)


@dataclass(frozen=True, slots=True)
class UnchangedTags:
    """Finds those of many copies that have nothing to do, and confirms that.

    They are unchanged. With ``overwrite: never`` they are skipped, because their targets exist.
    """

    source: RegistryClient
    changes: TagChanges
    confirmer: Confirmer
    referrers: ReferrerCheck

    def left_of(self, task: ClaimedTask, copies: Sequence[CopySpec], options: CopyOptions) -> list[CopySpec]:
        """Return the copies that have something to do, or whose sources could not be asked. All have *options*.

        Raises an error for which the task has to wait, such as RateLimited.
        """
        if options.overwrite == "always":
            return list(copies)
        job = task.claim.task.job
        held = dict(zip(copies, self.confirmer.indexed([copy.target for copy in copies]), strict=True))
        if options.overwrite == "never":
            existing = self.confirmer.existing({copy.target: tag.digest for copy, tag in held.items() if tag})
            return [copy for copy in copies if copy.target not in existing]
        candidates = [copy for copy in copies if _may_be_current(copy, held[copy])]
        changes = self.changes.take_numbers([(copy.target, job) for copy in candidates])
        digests = self._digests([copy.source for copy in candidates], task.cancellation)
        current = {
            change: (copy, found)
            for copy, change, digest in zip(candidates, changes, digests, strict=True)
            if digest and (found := held[copy]) and is_current(copy, digest, found)
        }
        wanted = self._with_current_referrers(current, task)
        confirmed = self._confirmed(wanted)
        targets = {change.target for change in confirmed}
        return [copy for copy in copies if copy.target not in targets]

    def _with_current_referrers(
        self, current: Mapping[TagChange, tuple[CopySpec, IndexedTag]], task: ClaimedTask
    ) -> dict[TagChange, Digest]:
        """Return those of the tags whose sources have no new referrers, each with its digest."""
        since = task.claim.task.created_at

        def are_current(one: tuple[CopySpec, IndexedTag]) -> bool:
            task.cancellation.check()
            try:
                return self.referrers.is_current(*one, since)
            except MirrorError as error:
                if error.waits_for:
                    raise
                return False

        with lookup_threads(task.cancellation) as threads:
            answers = list(threads.map(are_current, current.values()))
        found = zip(current.items(), answers, strict=True)
        return {change: held.digest for (change, (_, held)), is_current_too in found if is_current_too}

    def _digests(self, references: Sequence[Reference], cancellation: Cancellation) -> list[Digest | None]:
        def look_up(reference: Reference) -> Digest | None:
            cancellation.check()
            try:
                return reference.digest or self.source.head_manifest(reference)
            except MirrorError as error:
                if error.waits_for:
                    raise
                return None

        with lookup_threads(cancellation) as threads:
            return list(threads.map(look_up, references))

    def _confirmed(self, wanted: Mapping[TagChange, Digest]) -> list[TagChange]:
        """Return the changes whose tags show their digests in the bucket."""
        if not wanted:
            return []
        with self.confirmer.lock_tags(list(wanted.items())) as tags:
            updates = tags.confirm(list(wanted.items()))
        return [change for change, update in zip(wanted, updates, strict=True) if update and not update.superseded_by]


def _may_be_current(copy: CopySpec, held: IndexedTag | None) -> bool:
    return held is not None and is_current(copy, held.made_from, held)


def _of_repository(spec: ExpandSpec, repository: str) -> ExpandSpec:
    return replace(spec, source=replace(spec.source, repository=repository, is_wildcard=False), may_be_empty=True)


def _require_held(state: ClaimState) -> None:
    """Raise OperationCanceled if the task was taken away or its job is being canceled."""
    if state is ClaimState.TAKEN_AWAY:
        raise OperationCanceled(LOST)
    if state is ClaimState.CANCELING:
        raise OperationCanceled(CANCELED)
