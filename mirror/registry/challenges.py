"""Reading ``WWW-Authenticate``: what a registry wants to see before it answers (RFC 9110, section 11).

The reader looks at each character a fixed number of times, whatever stands there: a hostile header costs no more than
an honest one of the same length.
"""

from __future__ import annotations

import string
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

LONGEST: Final = 8192
"""Characters in all lines of the header together. More than that is not read at all."""
_WORD: Final = frozenset(string.ascii_letters + string.digits + "!#$%&'*+.^_`|~-")
_BLANK: Final = frozenset(" \t")
_BETWEEN: Final = frozenset(" \t,;")


@dataclass(frozen=True, slots=True)
class Challenge:
    """One scheme, lower case, and its parameters, their names lower case."""

    scheme: str
    parameters: Mapping[str, str] = field(default_factory=dict)


def parse_challenges(*lines: str) -> list[Challenge]:
    """Return every challenge of the header's lines that can be read; what cannot be read is skipped."""
    if sum(map(len, lines)) > LONGEST:
        return []
    return [challenge for line in lines for challenge in _Reader(line).challenges()]


def names_nothing(lines: Iterable[str]) -> bool:
    """Whether the header is absent or blank, so that it does not even name a scheme we do not know."""
    return not any(line.strip() for line in lines)


class _Reader:
    """Reads one line from left to right, without ever going back."""

    def __init__(self, line: str) -> None:
        self._line = line
        self._at = 0

    def challenges(self) -> list[Challenge]:
        """A word with ``=`` behind it is a parameter of the last scheme. Any other word is a scheme, unless it
        directly follows one without a comma: then it is credentials of that scheme (token68), which nobody needs.
        """
        found: list[tuple[str, dict[str, str]]] = []
        bare = False  # the last thing was a scheme, and no comma has come since
        while self._at < len(self._line):
            bare = "," not in self._run(_BETWEEN) and bare
            word = self._run(_WORD)
            if self._is_odd(word):
                self._rest_of_word()
            elif self._is_parameter():
                value = self._value()
                if found and value is not None:
                    found[-1][1][word.lower()] = value
                bare = False
            elif word and not bare:
                found.append((word.lower(), {}))
                bare = True
        return [Challenge(scheme, parameters) for scheme, parameters in found]

    def _is_odd(self, word: str) -> bool:
        """Whether what comes next can be neither the end of a word nor the ``=`` behind it."""
        if self._at == len(self._line):
            return False
        following = self._line[self._at]
        return following not in _BETWEEN and (following != "=" or not word)

    def _is_parameter(self) -> bool:
        """Whether ``=`` comes next, perhaps after blanks."""
        self._run(_BLANK)
        return self._peek() == "="

    def _value(self) -> str | None:
        """Read what stands behind ``=``; None for a quoted string that is never closed."""
        self._at += 1
        self._run(_BLANK)
        return self._quoted() if self._peek() == '"' else self._rest_of_word()

    def _quoted(self) -> str | None:
        """Read a quoted string, a backslash before any character taken away."""
        self._at += 1
        characters: list[str] = []
        while self._at < len(self._line):
            character = self._line[self._at]
            self._at += 1
            if character == '"':
                return "".join(characters)
            if character == "\\" and self._at < len(self._line):
                character = self._line[self._at]
                self._at += 1
            characters.append(character)
        return None

    def _run(self, characters: frozenset[str]) -> str:
        """Read as many of *characters* as follow."""
        start = self._at
        while self._at < len(self._line) and self._line[self._at] in characters:
            self._at += 1
        return self._line[start : self._at]

    def _rest_of_word(self) -> str:
        """Read up to the next blank or comma."""
        start = self._at
        while self._at < len(self._line) and self._line[self._at] not in " \t,":
            self._at += 1
        return self._line[start : self._at]

    def _peek(self) -> str:
        return self._line[self._at] if self._at < len(self._line) else ""
