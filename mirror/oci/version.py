"""Versions in tags, and ranges of them. Pure.

A range has the grammar of npm together with that of Masterminds/semver, which Flux, Helm and Argo CD use. It is written
here as in the Go specification::

    range      = set { "||" set } .
    set        = item { [ "," ] item } .
    item       = partial " - " partial | [ operator ] partial .
    operator   = "=" | "!=" | ">" | ">=" | "<" | "<=" | "~" | "~>" | "^" .
    partial    = [ "v" ] part { "." part } [ suffix ] [ ( "+" | "_" ) build ] .
    part       = digit { digit } | "x" | "X" | "*" .
    suffix     = "-" ( "0" | prerelease | variant | ( "0" | prerelease ) "-" variant ) .
    prerelease = ( "alpha" | "beta" | "rc" | ... ) [ "." | "-" ] [ number ] .
    variant    = glob .

All items of a set must allow a version. Blanks may surround items and operators. A build has no effect.

The rules for tags, for pre-releases and for variants are in docs/reference/selection.md. The precedence of pre-releases
is that of SemVer 2.0.0, section 11, by the package ``semver``.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Final, NoReturn, Self

from semver import Version

from mirror.errors import quoted
from mirror.oci.glob import Glob

_MAX_TAG: Final = 128
_MAX_RANGE: Final = 1000
_SHOWN: Final = 100
"""Characters of a range that a reason shows. There is one reason for each tag."""
_MAX_DIGITS: Final = 5
"""A first number with more digits is a date, a build number or a part of a hash."""
_WORDS: Final = frozenset(
    {"alpha", "beta", "canary", "cr", "dev", "devel", "development", "ea", "milestone", "nightly"}
    | {"pre", "prerelease", "preview", "rc", "snapshot"}
)
_SHORT_WORDS: Final = {"a": "alpha", "b": "beta", "m": "milestone"}
"""These are words of a pre-release only if a digit follows, as in ``3.14.0b2``."""
_TAG: Final = re.compile(r"[vV]?([0-9]+(?:\.[0-9]+)*)(.*)", re.DOTALL)
_WORD: Final = re.compile(r"[A-Za-z]+")
_PRERELEASE_TOKEN: Final = re.compile(r"[A-Za-z][0-9A-Za-z.]*")
_IDENTIFIER: Final = re.compile(r"[0-9]+|[A-Za-z]+")

Numbers = tuple[int, ...]
Precedence = tuple[Numbers, Version]
_RELEASE: Final = Version(0, 0, 0)
_LOWEST: Final = Version(0, 0, 0, "0")
"""The lowest pre-release of all. ``<2.0`` does not include a pre-release of 2.0.0."""


@dataclass(frozen=True, slots=True)
class TagVersion:
    """The version that a tag shows. ``v3.18-rc1-alpine`` is 3.18.0, pre-release ``rc.1``, variant ``alpine``.

    ``numbers`` are three, or more without zeros at the end.
    """

    numbers: Numbers
    prerelease: str = ""
    variant: str = ""

    @classmethod
    def parse(cls, tag: str) -> Self | None:
        """Read the version of a tag. Return None if the tag shows none."""
        found = _TAG.fullmatch(tag) if len(tag) <= _MAX_TAG else None
        if found is None:
            return None
        written, rest = found[1].split("."), found[2]
        if len(written[0]) > _MAX_DIGITS:
            return None
        if len(written) >= 3:
            rest, mark, build = rest.partition("_")  # "+" of SemVer is no character of a tag
            if mark and not build:
                return None
        suffix = _read_suffix(rest, len(written))
        return cls(_padded([int(number) for number in written]), *suffix) if suffix else None

    @property
    def precedence(self) -> Precedence:
        """A key by which versions are ordered. The variant does not count."""
        return self.numbers, _stage(self.prerelease)

    def __str__(self) -> str:
        return "-".join(filter(None, (".".join(map(str, self.numbers)), self.prerelease, self.variant)))


@dataclass(frozen=True, slots=True)
class VersionRange:
    """A range of versions, such as ``>=3.18 <4``."""

    text: str
    _sets: tuple[_Set, ...]

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse a range. Raises ValueError, which names the position of the mistake."""
        if len(text) > _MAX_RANGE:
            raise ValueError(f"A range has at most {_MAX_RANGE} characters, and it has {len(text)}")
        return cls(text, _Parser(text).read())

    def allows(self, version: TagVersion) -> bool:
        """Whether *version* is in the range."""
        return self.refusal(version) is None

    def refusal(self, version: TagVersion) -> str | None:
        """Return why *version* is not in the range, as a sentence, or None."""
        key = version.precedence
        reasons: set[str] = set()
        for one in self._sets:
            reason = one.refusal(version, key)
            if reason is None:
                return None
            reasons.add(reason)
        shown = quoted(self.text, _SHOWN)
        if _VARIANT in reasons:
            suffix = f"the suffix '{version.variant}'" if version.variant else "no suffix"
            return f"{version} has {suffix}, which is not what {shown} names"
        if _PRERELEASE in reasons:
            return f"{version} is a pre-release, and {shown} names none of that version"
        return f"{version} is not in {shown}"

    def __str__(self) -> str:
        return self.text


_OUTSIDE: Final = "outside"
_PRERELEASE: Final = "prerelease"
_VARIANT: Final = "variant"


@dataclass(frozen=True, slots=True)
class _Item:
    """The versions that one item of a range allows. None is no bound. ``!=`` allows those outside the bounds."""

    low: Precedence | None = None
    high: Precedence | None = None
    has_low: bool = True
    has_high: bool = False
    is_negated: bool = False
    prereleases_of: Numbers | None = None
    """The item names a pre-release of this version."""
    has_all_prereleases: bool = False
    variant: Glob | None = None

    def allows(self, version: TagVersion, key: Precedence) -> bool:
        inside = self.low is None or key > self.low or (self.has_low and key == self.low)
        inside = inside and (self.high is None or key < self.high or (self.has_high and key == self.high))
        if not self.is_negated:
            return inside
        return not inside or (self.variant is not None and not self.variant.matches(version.variant))


@dataclass(frozen=True, slots=True)
class _Set:
    """Items that must all allow a version. They allow only the pre-releases and variants that one of them names."""

    items: tuple[_Item, ...]
    prereleases_of: frozenset[Numbers]
    has_all_prereleases: bool
    variants: tuple[Glob, ...]

    @classmethod
    def of(cls, items: list[_Item]) -> Self:
        positive = [item for item in items if not item.is_negated]
        named = frozenset(item.prereleases_of for item in positive if item.prereleases_of)
        has_all = any(item.has_all_prereleases for item in positive)
        for index, item in enumerate(items if has_all else ()):
            if item.high and not item.has_high and item.high[1] == _RELEASE and item.high[0] not in named:
                items[index] = replace(item, high=(item.high[0], _LOWEST))  # "<4.0.0" has no pre-release of 4.0.0
        return cls(tuple(items), named, has_all, tuple(item.variant for item in positive if item.variant))

    def refusal(self, version: TagVersion, key: Precedence) -> str | None:
        if not all(item.allows(version, key) for item in self.items):
            return _OUTSIDE
        if version.prerelease and not (self.has_all_prereleases or version.numbers in self.prereleases_of):
            return _PRERELEASE
        if self.variants:
            return None if any(variant.matches(version.variant) for variant in self.variants) else _VARIANT
        return _VARIANT if version.variant else None


@dataclass(frozen=True, slots=True)
class _Partial:
    """A version of a range. ``given`` are the numbers before a wildcard, and before those that are missing."""

    given: Numbers
    is_exact: bool
    prerelease: str = ""
    variant: Glob | None = None

    @property
    def low(self) -> Precedence:
        return _padded(self.given), _stage(self.prerelease)

    def above(self, index: int, stage: Version = _LOWEST) -> Precedence | None:
        """Return the first version whose number at *index* is greater. None if that number is not given."""
        if not self.given:
            return None
        index = min(index, len(self.given) - 1)
        return _padded([*self.given[:index], self.given[index] + 1]), stage

    def item(self, operator: str) -> _Item:
        """Return the item that *operator* and this version are."""
        last = len(self.given) - 1
        exact = self.low if self.is_exact else None
        if operator in ("=", "!="):
            item = _Item(self.low, exact or self.above(last), has_high=self.is_exact, is_negated=operator == "!=")
        elif operator == ">":
            item = _Item(exact or self.above(last, _RELEASE), has_low=not self.is_exact)
        elif operator == ">=":
            item = _Item(self.low)
        elif operator == "<":
            item = _Item(high=exact or (self.low[0], _LOWEST))
        elif operator == "<=":
            item = _Item(high=exact or self.above(last), has_high=self.is_exact)
        elif operator == "^":
            first = next((index for index, number in enumerate(self.given) if number), last)
            item = _Item(self.low, self.above(first))
        else:
            item = _Item(self.low, self.above(1))
        named = self.low[0] if self.prerelease else None
        return replace(item, prereleases_of=named, has_all_prereleases=self.prerelease == "0", variant=self.variant)


class _Parser:
    """Reads a range from left to right, without going back."""

    _OPERATOR: Final = re.compile(r"<=|>=|!=|~>|[<>=~^]")
    _HYPHEN: Final = re.compile(r"[ \t]+-[ \t]+")
    _NUMBERS: Final = re.compile(r"[vV]?((?:[0-9]+|[xX*])(?:\.(?:[0-9]+|[xX*]))*)")
    _REST: Final = re.compile(r"[0-9A-Za-z.*?\[\]!_+-]*")
    _HINTS: Final = {
        "=": "write '=' once",
        ">": "write '>='",
        "<": "write '<='",
        "|": "write '||'",
        "&": "write ','",
        "-": "write a blank on both sides of '-'",
    }

    def __init__(self, text: str) -> None:
        self._text = text
        self._position = 0

    def read(self) -> tuple[_Set, ...]:
        sets = [self._read_set()]
        while self._take("||"):
            sets.append(self._read_set())
        return tuple(sets)

    def _read_set(self) -> _Set:
        items = self._read_item()
        while True:
            self._skip_blanks()
            is_at_end = self._position == len(self._text) or self._text.startswith("||", self._position)
            if is_at_end:
                return _Set.of(items)
            self._take(",")
            items += self._read_item()

    def _read_item(self) -> list[_Item]:
        self._skip_blanks()
        start = self._position
        found = self._OPERATOR.match(self._text, start)
        if found:
            self._position = found.end()
            self._skip_blanks()
        partial = self._read_partial()
        hyphen = None if found else self._HYPHEN.match(self._text, self._position)
        if hyphen:
            self._position = hyphen.end()
            return [partial.item(">="), self._read_partial().item("<=")]
        operator = found[0] if found else "="
        if not partial.given and operator in ("<", ">", "!="):
            self._fail(start, f"'{operator}' and a wildcard allow no version")
        return [partial.item(operator)]

    def _read_partial(self) -> _Partial:
        start = self._position
        found = self._NUMBERS.match(self._text, start)
        if not found:
            hint = self._HINTS.get(self._text[start : start + 1])
            self._fail(start, hint or "a version is expected, such as 1.2, 1.x or 1.2.3-alpine")
        self._position = found.end()
        parts = found[1].split(".")
        given = [int(part) for part in itertools.takewhile(str.isdigit, parts)]
        if any(part.isdigit() for part in parts[len(given) :]):
            self._fail(start, "no number may follow a wildcard")
        if given and len(parts[0]) > _MAX_DIGITS:
            self._fail(start, f"a first number of more than {_MAX_DIGITS} digits is no version. Order by 'numeric'")
        has_wildcard = len(given) < len(parts)
        prerelease, variant = self._read_rest(len(parts))
        names_one = prerelease not in ("", "0")
        if names_one and has_wildcard:
            self._fail(start, "a pre-release needs all numbers of its version")
        is_exact = names_one or (len(given) >= 3 and not has_wildcard)
        return _Partial(tuple(given), is_exact, prerelease, variant)

    def _read_rest(self, count: int) -> tuple[str, Glob | None]:
        """Read the suffix and the build after *count* numbers."""
        start = self._position
        found = self._REST.match(self._text, start)
        rest = found[0] if found else ""
        self._position += len(rest)
        rest = re.split(r"[+_]" if count >= 3 else r"[+]", rest, maxsplit=1)[0]
        if rest == "-0" or rest.startswith("-0-"):
            prerelease, variant = "0", rest[3:]
        else:
            suffix = None if rest.startswith(".") else _read_suffix(rest, count)
            if suffix is None:
                self._fail(start, f"'{rest}' cannot follow a version. A suffix begins with '-'")
            prerelease, variant = suffix
        word = _WORD.match(variant)
        if word and word[0].lower() in _WORDS:
            self._fail(start, "a pre-release is no pattern. The suffix '-0' stands for all pre-releases")
        try:
            return prerelease, Glob.parse(variant) if variant else None
        except ValueError:
            self._fail(start, "a '[' of the suffix is not closed")

    def _skip_blanks(self) -> None:
        while self._text.startswith((" ", "\t"), self._position):
            self._position += 1

    def _take(self, symbol: str) -> bool:
        if not self._text.startswith(symbol, self._position):
            return False
        self._position += len(symbol)
        return True

    def _fail(self, position: int, problem: str) -> NoReturn:
        raise ValueError(f"It is not a range of versions: at character {position + 1}, {problem}")


def _read_suffix(rest: str, count: int) -> tuple[str, str] | None:
    """Split what follows the *count* numbers of a version into pre-release and variant.

    Return None if the text is not a version after all: ``1.2.`` and ``3.x``, and ``2024-01-05``, which is a date.
    """
    if not rest:
        return "", ""
    is_attached = rest[0] not in "-."
    tokens = (rest if is_attached else rest[1:]).split("-")
    if "" in tokens or (rest[0] == "." and not tokens[0][0].isalpha()):
        return None
    if count == 1 and (is_attached or tokens[0][0].isdigit()):
        return None
    if is_attached and not _identifiers(tokens[0]):
        return None
    for index, token in enumerate(tokens):
        identifiers = _identifiers(token)
        if identifiers:
            after = index + 1
            if len(identifiers) == 1 and tokens[after : after + 1] and tokens[after].isdecimal():
                identifiers.append(str(int(tokens[after])))  # "rc-1" is "rc.1"
                after += 1
            return ".".join(identifiers), "-".join(tokens[:index] + tokens[after:])
    return "", "-".join(tokens)


def _identifiers(token: str) -> list[str]:
    """Return the identifiers of a pre-release, such as ``rc`` and ``1`` for ``RC1``. Empty if it is none."""
    found = _WORD.match(token)
    if not found or not _PRERELEASE_TOKEN.fullmatch(token):
        return []
    word = found[0].lower()
    if token[found.end() : found.end() + 1].isdigit():
        word = _SHORT_WORDS.get(word, word)
    if word not in _WORDS:
        return []
    others = _IDENTIFIER.findall(token.lower(), found.end())
    return [word, *(str(int(other)) if other.isdigit() else other for other in others)]


def _padded(numbers: Sequence[int]) -> Numbers:
    """Return at least three numbers, without zeros at the end after these."""
    length = len(numbers)
    while length > 3 and numbers[length - 1] == 0:
        length -= 1
    return (*numbers[:length], *(0 for _ in range(3 - length)))


@lru_cache(maxsize=1024)
def _stage(prerelease: str) -> Version:
    """Return a version that `semver` orders as SemVer orders the pre-release. A release is above all of them."""
    return Version(0, 0, 0, prerelease) if prerelease else _RELEASE
