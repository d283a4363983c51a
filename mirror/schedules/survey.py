"""Read from the records of a job what its sources list, and what their targets show."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Final

from mirror.catalog.entry import IndexedTag
from mirror.catalog.index import CatalogIndex
from mirror.copying.naming import TargetNamer
from mirror.oci.digest import Digest
from mirror.oci.local_image import LocalImage
from mirror.oci.reference import Reference, is_same_source
from mirror.records.ids import ulid_of
from mirror.records.selections import Choice, SelectionStore
from mirror.records.spec import ExpandSpec
from mirror.records.task import Task
from mirror.schedules.upstream import MirroredTag, Survey

_AT_ONCE: Final = 500


class SurveyReader:
    """Reads surveys. Safe to share between threads. Every method raises RedisUnavailable.

    *public_host* is the mirror's own host.
    """

    def __init__(self, selections: SelectionStore, index: CatalogIndex, public_host: str) -> None:
        self._selections = selections
        self._index = index
        self._public_host = public_host

    def read(self, job_id: str) -> Survey:
        """Return what the expansions of a job have listed and selected, each at its own time.

        A selection is stored when its source was listed completely. So an expansion without one, or with an empty one,
        counts for nothing.
        """
        namer = TargetNamer(self._public_host, ulid_of(job_id).datetime)
        listed: dict[str, set[str]] = defaultdict(set)
        sources: dict[LocalImage, Reference] = {}
        specs: list[ExpandSpec] = []
        is_whole = True
        for task in self._selections.expansions(job_id):
            if not isinstance(task.spec, ExpandSpec):
                continue
            specs.append(task.spec)
            if task.spec.source.is_wildcard:
                is_whole = is_whole and task.expansion.selection is not None
            elif choices := self._choices(task):
                listed[task.spec.source.name].update(choice.name for choice in choices)
                sources |= _targets(task.spec, choices, namer)
        return Survey(listed, self._mirrored(sources), specs, is_whole)

    def _choices(self, task: Task) -> list[Choice]:
        """Return all that a task has listed, or nothing if that is not complete."""
        expansion = task.expansion
        if expansion.selection is None:
            return []
        parts = (self._selections.part(task.id, number) for number in range(expansion.parts))
        choices = [choice for part in parts for choice in part]
        return choices if len(choices) == expansion.selection.get("listed") else []

    def _mirrored(self, sources: Mapping[LocalImage, Reference]) -> dict[str, MirroredTag]:
        found: dict[str, MirroredTag] = {}
        targets = list(sources)
        for begin in range(0, len(targets), _AT_ONCE):
            part = targets[begin : begin + _AT_ONCE]
            entries = self._index.indexed([(target.repository, str(target.tag)) for target in part])
            shown = zip(part, entries, strict=True)
            found |= {str(target): mirrored_tag(sources[target], entry) for target, entry in shown}
        return found


def mirrored_tag(source: Reference, entry: IndexedTag | None) -> MirroredTag:
    """Return what the index says of the target of *source*.

    Two tags that share an image share its record. So after a rebuild of the index, the entry of one may name the other.
    """
    if entry is None:
        return MirroredTag(str(source), None)
    is_own = bool(entry.job and entry.source) and is_same_source(str(entry.source), source)
    return MirroredTag(str(source), str(entry.digest) if is_own else None, is_foreign=not is_own)


def _targets(spec: ExpandSpec, choices: Sequence[Choice], namer: TargetNamer) -> dict[LocalImage, Reference]:
    """Return the targets of the selected tags, each with its source, which is named by its tag only."""
    sources = [
        (spec.source.tagged(choice.name), Digest.parse(choice.digest) if choice.digest else None)
        for choice in choices
        if choice.rule is None
    ]
    return {name: source for source, name in namer.assign(sources, spec.targets) if isinstance(name, LocalImage)}
