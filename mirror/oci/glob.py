"""Globs that take no more than linear time, whatever the pattern. `fnmatch` does not promise that."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final, Self

_MAX_LENGTH: Final = 1000


@dataclass(frozen=True, slots=True)
class Glob:
    """A pattern of the shell for a whole text. Case counts.

    ::

        glob  = { "*" | "?" | set | character } .
        set   = "[" [ "!" | "^" ] range { range } "]" .
        range = character [ "-" character ] .

    ``*`` is any run of characters, also an empty one. ``?`` is one character. A set is one of its characters, or with
    ``!`` one that it does not list. There is no escape character.

    The pattern is divided at its stars. Each part has a fixed length, and is an expression without repetition. Such an
    expression cannot backtrack. The first place where a part fits leaves the most room, so no other place is tried.
    """

    text: str
    _parts: tuple[re.Pattern[str], ...] = field(repr=False, compare=False)
    _lengths: tuple[int, ...] = field(repr=False, compare=False)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse a glob. Raises ValueError, which names the position of the mistake."""
        if len(text) > _MAX_LENGTH:
            raise ValueError(f"A glob has at most {_MAX_LENGTH} characters, and it has {len(text)}")
        parts: list[list[str]] = [[]]
        position = 0
        while position < len(text):
            character = text[position]
            position += 1
            if character == "*":
                parts.append([])
            elif character == "[":
                expression, position = _read_set(text, position)
                parts[-1].append(expression)
            else:
                parts[-1].append("." if character == "?" else re.escape(character))
        compiled = tuple(re.compile("".join(part), re.DOTALL) for part in parts)
        return cls(text, compiled, tuple(map(len, parts)))

    def matches(self, text: str) -> bool:
        """Whether the whole *text* matches."""
        if len(self._parts) == 1:
            return self._parts[0].fullmatch(text) is not None
        start, end = self._lengths[0], len(text) - self._lengths[-1]
        if start > end or not self._parts[0].match(text) or not self._parts[-1].match(text, end):
            return False
        for part in self._parts[1:-1]:
            found = part.search(text, start, end)
            if found is None:
                return False
            start = found.end()
        return True

    def __str__(self) -> str:
        return self.text


def _read_set(text: str, start: int) -> tuple[str, int]:
    """Translate the set whose text begins at *start*. Return the expression, and the position after the set."""
    negation = "^" if text[start : start + 1] in ("!", "^") else ""
    first = start + len(negation)
    end = text.find("]", first + 1)  # a bracket at the beginning of a set is one of its characters
    if end < 0:
        raise ValueError(f"It is not a glob: the '[' at character {start} is not closed")
    ranges: list[str] = []
    position = first
    while position < end:
        low = high = text[position]
        if text[position + 1] == "-" and position + 2 < end:
            high = text[position + 2]
        if low > high:
            raise ValueError(f"It is not a glob: the range at character {position + 1} is in reverse")
        ranges.append(f"{re.escape(low)}-{re.escape(high)}")
        position += 1 if text[position + 1] != "-" or position + 2 >= end else 3
    return f"[{negation}{''.join(ranges)}]", end + 1
