"""Templates for names, and the rewriting of tags.

What a template or a replacement may contain is a closed list. Nothing in it is evaluated, and a text that was put in is
not searched for fields again.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Self

from mirror.errors import InvalidTemplate, quoted
from mirror.oci.tag_pattern import compile_regex

TEMPLATE_FIELDS: Final = ("registry", "repository", "name", "tag", "digest12", "date")
MOST_CHARACTERS: Final = 500
_TAG_PART: Final = ":{tag}"
_PIECES: Final = re.compile(r"\{[^{}]*\}|[^{}]+|[{}]")
_REPLACEMENT_PIECES: Final = re.compile(r"\\[0-9]|[^\\]+|\\")
_NOT_IN_TAGS: Final = re.compile(r"[^A-Za-z0-9_.-]", re.ASCII)


@dataclass(frozen=True, slots=True)
class NameTemplate:
    """A name with fields in braces, such as ``team/{name}:{tag}``.

    ``pieces`` are its texts and its fields, in order. A field has its braces. No text has one.
    """

    text: str
    pieces: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse a template. One without a tag gets ``:{tag}``. Raises InvalidTemplate with the place of the mistake."""
        if not 1 <= len(text) <= MOST_CHARACTERS:
            raise InvalidTemplate(text, f"it has {len(text)} characters, and 1 to {MOST_CHARACTERS} are allowed")
        for found in _PIECES.finditer(text):
            _refuse_other_fields(text, found[0], found.start() + 1)
        last = text.rpartition("/")[2]
        whole = text if ":" in last or "@" in last else text + _TAG_PART
        return cls(text, tuple(_PIECES.findall(whole)))

    @property
    def fields(self) -> frozenset[str]:
        """The names of its fields, without braces."""
        return frozenset(piece[1:-1] for piece in self.pieces if piece.startswith("{"))

    @property
    def repository(self) -> Self | None:
        """The template without its tag, if the tag is the tag of the source and nothing else uses that. Else None."""
        *pieces, colon, tag = ("", *self.pieces)
        if tag != "{tag}" or not colon.endswith(":") or "{tag}" in pieces:
            return None
        return type(self)(self.text, tuple(filter(None, (*pieces, colon[:-1]))))

    def fill(self, values: Mapping[str, str]) -> str:
        """Put the value of each field in its place. Raises InvalidTemplate if a field has no value."""
        if missing := sorted(self.fields - values.keys()):
            raise InvalidTemplate(self.text, f"there is nothing for its field {{{missing[0]}}}")
        return "".join(values[piece[1:-1]] if piece.startswith("{") else piece for piece in self.pieces)


def _refuse_other_fields(text: str, piece: str, position: int) -> None:
    if piece in ("{", "}"):
        missing = "is not closed" if piece == "{" else "closes nothing"
        raise InvalidTemplate(text, f"the brace at character {position} {missing}")
    if piece.startswith("{") and piece[1:-1] not in TEMPLATE_FIELDS:
        raise InvalidTemplate(text, f"the field {quoted(piece, 40)} at character {position} is unknown")


@dataclass(frozen=True, slots=True)
class TagRewrite:
    """Replaces the first part of a tag that an expression of RE2 matches. Another tag stays as it is.

    ``pieces`` are the texts and the numbers of groups that are put there.
    """

    regex: str
    pieces: tuple[str | int, ...]

    @classmethod
    def parse(cls, regex: str, to: str) -> Self:
        r"""Parse a replacement, in which ``\0`` to ``\9`` are the whole match and the groups of *regex*.

        Raises ValueError with the place of the mistake, and what `compile_regex` raises.
        """
        groups = compile_regex(regex).groups
        pieces: list[str | int] = []
        for found in _REPLACEMENT_PIECES.finditer(to):
            piece, position = found[0], found.start() + 1
            if piece == "\\":
                raise ValueError(f"A backslash needs a digit after it, at character {position}")
            if piece.startswith("\\") and int(piece[1]) > groups:
                raise ValueError(f"The regular expression has no group {piece}, at character {position}")
            if piece.startswith("\\"):
                pieces.append(int(piece[1]))
                continue
            cls.require_part(piece, position)
            pieces.append(piece)
        return cls(regex, tuple(pieces))

    @staticmethod
    def require_part(text: str, position: int = 1) -> None:
        """Raise ValueError unless *text*, which begins at *position*, may be a part of a tag."""
        if found := _NOT_IN_TAGS.search(text):
            raise ValueError(f"No tag has the character at position {position + found.start()}")

    def apply(self, tag: str) -> str:
        """Return the tag after the replacement. A group that took no part in the match is empty."""
        match = compile_regex(self.regex).search(tag)
        if match is None:
            return tag
        start, end = match.span()
        put = (match.group(piece) or "" if isinstance(piece, int) else piece for piece in self.pieces)
        return f"{tag[:start]}{''.join(put)}{tag[end:]}"
