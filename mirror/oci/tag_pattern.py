"""A pattern for tags: a glob, a regular expression, or one exact name."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Final, Literal, get_args

TagPatternKind = Literal["regex", "glob", "exact"]
TAG_PATTERN_KINDS: Final[tuple[TagPatternKind, ...]] = get_args(TagPatternKind)


@dataclass(frozen=True, slots=True, order=True)
class TagPattern:
    """One entry of a list of patterns, such as ``{"glob": "*-rc*"}``. It matches a whole tag."""

    kind: TagPatternKind
    text: str

    def matches(self, tag: str) -> bool:
        """Whether the whole *tag* matches."""
        if self.kind == "exact":
            return tag == self.text
        return fnmatchcase(tag, self.text)

    def __str__(self) -> str:
        return f"{self.kind} {self.text}"
