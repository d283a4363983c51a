"""Patterns for tags: a glob, a regular expression (RE2), or one exact name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, Literal, Protocol, Self, cast, get_args

from mirror.errors import RegexUnavailable, quoted
from mirror.oci.glob import Glob
from mirror.oci.reference import is_tag

try:
    import re2
except ImportError:  # no wheel for this platform. Patterns of other kinds work without it.
    re2 = None

TagPatternKind = Literal["regex", "glob", "exact"]
TAG_PATTERN_KINDS: Final[tuple[TagPatternKind, ...]] = get_args(TagPatternKind)
_MAX_LENGTH: Final = 1000
_MAX_MEMORY: Final = 1 << 20
"""Bytes that RE2 may use for one expression and its cache of states. It refuses a larger expression."""
_MAX_TRIES: Final = 50
"""How many places are tried to find the position of a mistake."""
_GLOB_CHARACTERS: Final = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-*?[]!^")
_HINTS: Final = {
    "invalid perl operator": "RE2 has no lookaround and no atomic groups. Use 'deny' to exclude tags",
    "invalid escape sequence": "RE2 has no backreferences, and writes \\z for the end of the text",
    "bad repetition operator": "RE2 has no possessive repetition",
    "invalid repetition size": "A repetition is at most 1000 times, also in nested groups",
    "pattern too large": "Write a shorter expression",
}


class Regex(Protocol):
    """A compiled expression of RE2. It takes linear time for any text."""

    groups: int

    def fullmatch(self, text: str) -> Any: ...
    def search(self, text: str) -> Any: ...


@dataclass(frozen=True, slots=True, order=True)
class TagPattern:
    """One entry of a list of patterns, such as ``{"glob": "*-rc*"}``. It matches a whole tag."""

    kind: TagPatternKind
    text: str

    @classmethod
    def parse(cls, kind: TagPatternKind, text: str) -> Self:
        """Check the text. Raises ValueError, which names the position of a mistake, or RegexUnavailable."""
        if kind == "exact" and not is_tag(text):
            raise ValueError(f"{quoted(text)} is not a valid tag, so no tag is equal to it")
        if kind == "glob":
            _refuse_other_characters(text)
        _matcher(kind, text)
        return cls(kind, text)

    def matches(self, tag: str) -> bool:
        """Whether the whole *tag* matches."""
        return _matcher(self.kind, self.text)(tag)

    def __str__(self) -> str:
        return f"{self.kind} {self.text}"


@lru_cache(maxsize=512)
def compile_regex(text: str) -> Regex:
    """Compile an expression of RE2. Raises ValueError, which names the position of a mistake, or RegexUnavailable."""
    if re2 is None:
        raise RegexUnavailable
    if len(text) > _MAX_LENGTH:
        raise ValueError(f"A regular expression has at most {_MAX_LENGTH} characters, and it has {len(text)}")
    for position, character in enumerate(text, 1):
        if not character.isascii():
            raise ValueError(f"It is not a regular expression for tags: character {position} is not ASCII")
    problem = _problem_of(text)
    if problem is None:
        return cast("Regex", re2.compile(text, _options()))
    raise ValueError(_explain(text, problem))


@lru_cache(maxsize=1024)
def _matcher(kind: TagPatternKind, text: str) -> Callable[[str], bool]:
    """Return the function that matches a tag. It is compiled once."""
    if kind == "exact":
        return text.__eq__
    if kind == "glob":
        return Glob.parse(text).matches
    fullmatch = compile_regex(text).fullmatch
    return lambda tag: fullmatch(tag) is not None


def _refuse_other_characters(glob: str) -> None:
    """Refuse a glob that no tag can match because of one of its characters."""
    for position, character in enumerate(glob, 1):
        if character in "{}":
            raise ValueError(
                f"It is not a glob for tags: character {position} is a brace. Write one glob for each alternative"
            )
        if character not in _GLOB_CHARACTERS:
            raise ValueError(
                f"It is not a glob for tags: no tag has the character {character!r} at position {position}"
            )


def _options() -> Any:
    options = re2.Options()
    options.log_errors = False
    options.max_mem = _MAX_MEMORY
    return options


def _problem_of(text: str) -> tuple[str, str] | None:
    """Return RE2's name for what is wrong with *text*, and the part that it is about. None if nothing is wrong."""
    try:
        re2.compile(text, _options())
    except re2.error as error:
        [said] = error.args
        name, _, part = (said.decode() if isinstance(said, bytes) else str(said)).partition(": ")
        return name.partition(" - ")[0], part
    return None


def _explain(text: str, problem: tuple[str, str]) -> str:
    """Return a sentence about *problem*, with its position."""
    name, part = problem
    hint = f". {_HINTS[name]}" if name in _HINTS else ""
    if name == "pattern too large":
        return f"It is not a regular expression of RE2: it needs more than {_MAX_MEMORY >> 20} MiB{hint}"
    position = _position_of(text, name, part)
    place = f"at character {position}, " if position else ""
    about = f" '{part}'" if part.isprintable() and 0 < len(part) < len(text) else ""
    return f"It is not a regular expression of RE2: {place}{name}{about}{hint}"


def _position_of(text: str, name: str, part: str) -> int | None:
    """Return the position of a mistake, counted from 1. RE2 names the part that is wrong, but not where it is.

    RE2 reads from left to right. So the part is wrong at the first place where *text*, cut after it, is refused.
    """
    if name == "missing ]":  # the part is the rest of the text, from the bracket on
        return len(text) - len(part) + 1
    if name in ("missing )", "trailing \\") or not part:
        return len(text)
    part = ")" if name == "unexpected )" else part
    start = text.find(part)
    for _ in range(_MAX_TRIES):
        if start < 0:
            break
        found = _problem_of(text[: start + len(part)])
        if found is not None and found[0] not in ("missing )", "missing ]"):
            return start + 1
        start = text.find(part, start + 1)
    return None
