"""Decide which mirrored tags their source has deleted. Pure: no I/O, and no clock.

A tag counts as deleted after ``gone_for`` complete listings in a row without it, and not before more than a day has
passed since the first of them was noticed. Each run counts once, however often it is decided.

A tag that the source still lists is never deleted, whether or not the rules select it. What the job no longer covers,
because somebody has changed it, is forgotten and stays in the mirror. A repository that was not listed completely
counts for nothing, and neither does one that a wildcard no longer lists.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from mirror.copying.naming import TargetNamer
from mirror.copying.selection import NameRules
from mirror.errors import InvalidInput
from mirror.oci.digest import Digest
from mirror.oci.reference import Reference
from mirror.records.followed import FollowedTag
from mirror.records.ids import ulid_of
from mirror.records.run import Run, RunNote
from mirror.records.schedule import DeleteBrake, UpstreamRules
from mirror.records.spec import ExpandSpec

DELETE_BRAKE: Final = "DELETE_BRAKE"
REPOSITORY_GONE: Final = "REPOSITORY_GONE"
_AT_LEAST: Final = timedelta(days=1)
_MOST_NAMED: Final = 3


@dataclass(frozen=True, slots=True)
class MirroredTag:
    """A target of a selected tag. *digest* is what it shows if that is from *source*, None if it shows nothing.

    *is_foreign* says that it shows an image from elsewhere.
    """

    source: str
    digest: str | None
    is_foreign: bool = False


@dataclass(frozen=True, slots=True)
class Survey:
    """What the job of a run has listed and selected.

    *listed* has the tags of each repository that was listed completely, by ``registry/repository``. *selected* has the
    targets. *specs* are all expansions of the job. *is_whole* says that every wildcard was listed completely.
    """

    listed: Mapping[str, AbstractSet[str]]
    selected: Mapping[str, MirroredTag]
    specs: Sequence[ExpandSpec]
    is_whole: bool = True

    @property
    def expanded(self) -> set[str]:
        """The repositories whose tags the job has listed, or tried to list."""
        return {spec.source.name for spec in self.specs if not spec.source.is_wildcard}


@dataclass(frozen=True, slots=True)
class Decision:
    """What a run has found out.

    *changes* are what is known of the targets from now on. None forgets a target. Of the *gone* targets, whose sources
    were not listed last time, the *due* ones are to be deleted. *braked* counts those that the brake keeps.
    """

    changes: Mapping[str, FollowedTag | None]
    gone: Mapping[str, FollowedTag]
    due: tuple[str, ...] = ()
    braked: int = 0
    note: RunNote | None = None


class _Ownership:
    """Whether the job of a run could mirror a tag to a target: by its names alone."""

    def __init__(self, specs: Sequence[ExpandSpec], public_host: str) -> None:
        self._specs: dict[str, list[ExpandSpec]] = defaultdict(list)
        self._wildcards: list[ExpandSpec] = []
        self._rules: dict[int, NameRules] = {}
        self._public_host = public_host
        for spec in specs:
            (self._wildcards if spec.source.is_wildcard else self._specs[spec.source.name]).append(spec)

    def includes(self, target: str, tag: FollowedTag) -> bool:
        source = Reference.parse(tag.source)
        named_at = ulid_of(tag.selected_by).datetime
        namer = TargetNamer(self._public_host, named_at)
        for spec in (*self._specs.get(source.name, ()), *self._wildcards):
            if spec.source.registry != source.registry or not spec.source.includes(source.repository):
                continue
            if self._selects(spec, str(source.tag)) and self._names(namer, spec, tag, source, target):
                return True
        return False

    def _selects(self, spec: ExpandSpec, tag: str) -> bool:
        """Whether the rules about names select the tag. They are prepared once for each of the expansions."""
        rules = self._rules.get(id(spec))
        if rules is None:
            rules = self._rules[id(spec)] = NameRules(spec.tags)
        return rules.choice(tag) is None

    @staticmethod
    def _names(namer: TargetNamer, spec: ExpandSpec, tag: FollowedTag, source: Reference, target: str) -> bool:
        for rule in spec.targets:
            try:
                if str(namer.target(rule, source, Digest.parse(tag.digest))) == target:
                    return True
            except InvalidInput:
                continue
        return False


def decide(
    known: Mapping[str, FollowedTag], survey: Survey, rules: UpstreamRules, run: Run, now: datetime, public_host: str
) -> Decision:
    """Return what *run* has found out of the targets that its schedule has mirrored. No I/O.

    *known* is what is known of them so far. *public_host* is the mirror's own host.
    """
    ownership = _Ownership(survey.specs, public_host)
    after: dict[str, FollowedTag | None] = {}
    for target, tag in known.items():
        if tag.deleted_by == run.id:
            after[target] = tag
        elif tag.deleted_by or not (target in survey.selected or ownership.includes(target, tag)):
            after[target] = None
        else:
            after[target] = _counted(tag, survey, run, now)
    for target, selected in survey.selected.items():
        after[target] = _seen(after.get(target), selected, run)
    changes = {target: tag for target, tag in after.items() if tag != known.get(target)}
    left = {target: tag for target, tag in after.items() if tag and not tag.deleted_by}
    gone = {target: tag for target, tag in left.items() if tag.missing}
    due = tuple(sorted(target for target, tag in gone.items() if _is_due(tag, rules, run, now)))
    total = len(left) + sum(tag is not None and tag.deleted_by is not None for tag in after.values())
    if not run.ignores_brake and _is_too_many(len(due), total, rules.brake):
        return Decision(changes, gone, braked=len(due), note=_brake_note(len(due), total, rules.brake))
    return Decision(changes, gone, due, note=_repositories_note(survey, left.values()))


def _counted(tag: FollowedTag, survey: Survey, run: Run, now: datetime) -> FollowedTag:
    """Return the tag after the listing of its repository, which *run* counts once."""
    repository, name = repository_of(tag.source)
    listed = survey.listed.get(repository)
    if listed is None or (name not in listed and tag.counted_by == run.id):
        return tag
    if name in listed:
        return replace(tag, missing=0, missing_since=None, counted_by=None)
    return replace(tag, missing=tag.missing + 1, missing_since=tag.missing_since or now, counted_by=run.id)


def _seen(tag: FollowedTag | None, selected: MirroredTag, run: Run) -> FollowedTag | None:
    """Return a selected tag with what its target shows now. None if the target shows something from elsewhere."""
    if selected.is_foreign:
        return None
    if selected.digest is None:
        return tag
    if tag and (tag.source, tag.digest) == (selected.source, selected.digest):
        return replace(tag, missing=0, missing_since=None, counted_by=None)
    return FollowedTag(selected.source, selected.digest, run.id)


def _is_due(tag: FollowedTag, rules: UpstreamRules, run: Run, now: datetime) -> bool:
    """Whether a missing tag counts as deleted. The listing of *run* itself must lack it."""
    since = tag.missing_since
    was_missed = tag.counted_by == run.id and since is not None and now - since > _AT_LEAST
    return was_missed and tag.missing >= rules.gone_for


def _is_too_many(count: int, total: int, brake: DeleteBrake) -> bool:
    share = round(brake.max_share * total, 6)  # 0.29 of 100 is 28.999999999999996
    return count > 0 and (count > brake.max_count or count > share)


def _brake_note(count: int, total: int, brake: DeleteBrake) -> RunNote:
    message = (
        f"The source has deleted {count} of {total} tags. At most {brake.max_count} tags, and at most "
        f"{100 * brake.max_share:g}% of all, are deleted at once. So none was deleted. If the source is right, POST "
        '{"ignore_brake": true} to the /run of the schedule, or raise its delete_brake'
    )
    return RunNote(DELETE_BRAKE, message)


def _repositories_note(survey: Survey, tags: Iterable[FollowedTag]) -> RunNote | None:
    """Name the repositories that no wildcard lists any more, though all wildcards were listed completely."""
    if not survey.is_whole:
        return None
    expanded = survey.expanded
    gone = sorted({repository for repository, _ in map(repository_of, (tag.source for tag in tags))} - expanded)
    if not gone:
        return None
    named = ", ".join(gone[:_MOST_NAMED]) + (", …" if len(gone) > _MOST_NAMED else "")
    message = f"The source does not list {len(gone)} repositories any more: {named}. Their tags stay in the mirror"
    return RunNote(REPOSITORY_GONE, message)


def repository_of(source: str) -> tuple[str, str]:
    """Split ``registry/repository:tag`` into ``registry/repository`` and the tag."""
    repository, _, tag = source.rpartition(":")
    return repository, tag
