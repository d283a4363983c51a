"""What a task has to do, as one JSON document with a version.

A plain copy is stored as version 1, which the release before knows, too. Anything else is version 2.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, Self, get_args

from marshmallow import ValidationError

from mirror.errors import InvalidInput
from mirror.oci.local_image import LocalImage
from mirror.oci.reference import Reference, RepositoryPattern
from mirror.records.rule_schemas import TAG_RULES, TARGET_RULE, dump_options, dump_target, load_options
from mirror.records.rules import ALL_TAGS, CANONICAL_TARGET, PLAIN_COPY, CopyOptions, TagRules, TargetRule

TaskKind = Literal["copy", "expand", "release"]
TASK_KINDS: Final[tuple[TaskKind, ...]] = get_args(TaskKind)
_VERSIONS: Final = (1, 2)
_FLAGS: Final = ("is_dry_run", "is_staged", "may_be_empty")
_PLAIN_FIELDS: Final = {"version", "kind", "source", "target"}


@dataclass(frozen=True, slots=True)
class CopySpec:
    """Copy the image *source* to *target*.

    *chosen_by* names the rules that chose the tag. With *is_dry_run* the task only says what it would do. With
    *is_staged* it copies everything and leaves the tag to the release of its job.
    """

    source: Reference
    target: LocalImage
    options: CopyOptions = PLAIN_COPY
    chosen_by: str | None = None
    is_dry_run: bool = False
    is_staged: bool = False

    @property
    def kind(self) -> TaskKind:
        return "copy"

    @property
    def registry(self) -> str:
        return self.source.registry

    def shown(self) -> dict[str, Any]:
        """Return what was understood, as a response shows it."""
        return {"source": str(self.source), "target": str(self.target), **dump_options(self.options)}

    def to_json(self) -> str:
        options = {} if self.options == PLAIN_COPY else dump_options(self.options)
        return _to_json(self, {"source": str(self.source), "target": str(self.target), **options})

    @classmethod
    def parse(cls, source: str, target: str) -> Self:
        """Parse the names of a record. Raises ValueError."""
        try:
            return cls(Reference.parse(source), LocalImage.parse(target))
        except InvalidInput as error:
            raise ValueError(f"the spec of a task has a malformed name: {error.message}") from error


@dataclass(frozen=True, slots=True)
class ExpandSpec:
    """List *source*, choose tags by *tags*, and add a copy for each of them and each of *targets* to the job.

    A wildcard adds another expansion for each of its repositories. Of those, some *may_be_empty*: then it is no error
    that the rules choose no tag.
    """

    source: RepositoryPattern
    tags: TagRules = ALL_TAGS
    targets: tuple[TargetRule, ...] = (CANONICAL_TARGET,)
    options: CopyOptions = PLAIN_COPY
    is_dry_run: bool = False
    is_staged: bool = False
    may_be_empty: bool = False

    @property
    def kind(self) -> TaskKind:
        return "expand"

    @property
    def registry(self) -> str:
        return self.source.registry

    def shown(self) -> dict[str, Any]:
        """Return what was understood, as a response shows it."""
        targets: list[Any] = [dump_target(target) for target in self.targets]
        rules = {"tags": TAG_RULES.dump(self.tags), "target": targets}
        return {"source": str(self.source), **rules, **dump_options(self.options)}

    def to_json(self) -> str:
        return _to_json(self, self.shown())


@dataclass(frozen=True, slots=True)
class ReleaseSpec:
    """Move the tags of all staged images of the job, together."""

    is_dry_run: bool = False
    is_staged: bool = False

    @property
    def kind(self) -> TaskKind:
        return "release"

    @property
    def registry(self) -> str:
        return ""

    @property
    def source(self) -> str:
        return ""

    def shown(self) -> dict[str, Any]:
        """Return what was understood: nothing, because the job has all of it."""
        return {}

    def to_json(self) -> str:
        return _to_json(self, {})


TaskSpec = CopySpec | ExpandSpec | ReleaseSpec


def read_spec(text: str) -> TaskSpec:
    """Read what `to_json` wrote. Raises ValueError for another version or kind, and for malformed names or rules."""
    document = json.loads(text)
    if not isinstance(document, dict) or document.get("version") not in _VERSIONS:
        raise ValueError(f"the spec of a task is of none of the versions {_VERSIONS}")
    if document.get("kind") not in TASK_KINDS:
        raise ValueError("the spec of a task is of an unknown kind")
    try:
        return _read(document)
    except InvalidInput as error:
        raise ValueError(f"the spec of a task has a malformed name: {error.message}") from error
    except ValidationError as error:
        raise ValueError(f"the spec of a task has a malformed rule: {error.messages}") from error


def _read(document: Mapping[str, Any]) -> TaskSpec:
    flags = {name: bool(document.get(name)) for name in ("is_dry_run", "is_staged")}
    if document["kind"] == "release":
        return ReleaseSpec(**flags)
    options = load_options(document) if document.keys() - _PLAIN_FIELDS else PLAIN_COPY
    if document["kind"] == "expand":
        targets = tuple(TARGET_RULE.load(target) for target in document.get("target") or [])
        tags, empty = TAG_RULES.load(document.get("tags") or {}), bool(document.get("may_be_empty"))
        pattern = RepositoryPattern.parse(str(document.get("source")))
        return ExpandSpec(pattern, tags, targets, options, **flags, may_be_empty=empty)
    source, target = Reference.parse(str(document.get("source"))), LocalImage.parse(str(document.get("target")))
    return CopySpec(source, target, options, document.get("chosen_by"), **flags)


def _to_json(spec: TaskSpec, shown: Mapping[str, Any]) -> str:
    document: dict[str, Any] = {"version": 1, "kind": spec.kind, **shown}
    document |= {flag: True for flag in _FLAGS if getattr(spec, flag, False)}
    if isinstance(spec, CopySpec) and spec.chosen_by:
        document["chosen_by"] = spec.chosen_by
    if document.keys() != _PLAIN_FIELDS:
        document["version"] = 2
    return json.dumps(document, separators=(",", ":"))
