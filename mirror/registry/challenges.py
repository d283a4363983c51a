"""Reading ``WWW-Authenticate``: what a registry wants to see before it answers (RFC 9110, section 11)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

_LONGEST: Final = 8192
_WORD: Final = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_SCHEME: Final = re.compile(rf"\s*,?\s*({_WORD})(?=[\s,]|$)(?!\s*=)", re.ASCII)
_PARAMETER: Final = re.compile(rf"\s*,?\s*({_WORD})\s*=\s*(?:\"((?:[^\"\\]|\\.)*)\"|([^\s,\"]+))", re.ASCII)


@dataclass(frozen=True, slots=True)
class Challenge:
    """One scheme, lower case, and its parameters, their names lower case."""

    scheme: str
    parameters: Mapping[str, str] = field(default_factory=dict)


def parse_challenges(header: str) -> list[Challenge]:
    """Every challenge of the header that can be read; what cannot be ends the list. Headers over 8 KiB say nothing."""
    found: list[Challenge] = []
    position = 0
    if len(header) > _LONGEST:
        return found
    while match := _SCHEME.match(header, position):
        position = match.end()
        parameters: dict[str, str] = {}
        while parameter := _PARAMETER.match(header, position):
            name, quoted, bare = parameter.groups()
            parameters[name.lower()] = bare if quoted is None else re.sub(r"\\(.)", r"\1", quoted)
            position = parameter.end()
        found.append(Challenge(match[1].lower(), parameters))
    return found
