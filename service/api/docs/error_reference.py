"""Read docs/reference/errors.md, the one list of error codes, for ``/docs/errors``.

A test compares the page with the classes in `mirror.errors`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

from markupsafe import Markup, escape

PAGE: Final = Path(__file__).resolve().parents[3] / "docs" / "reference" / "errors.md"
_ROW: Final = re.compile(r"\| `([A-Z_0-9]+)` \|(.*)\|")
_LINK: Final = re.compile(r"\[([^]]*)\]\([^)]*\)")
_CODE: Final = re.compile(r"`([^`]*)`")


@dataclass(frozen=True, slots=True)
class ErrorRow:
    """One code: its HTTP statuses, whether waiting helps, what it means and what to do. The last two are HTML."""

    code: str
    statuses: str
    retryable: str
    meaning: Markup
    advice: Markup


@cache
def groups() -> dict[str, list[ErrorRow]]:
    """Return the rows of the page's tables of codes, by the heading above each table."""
    found: dict[str, list[ErrorRow]] = {}
    title = ""
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            title = line.lstrip("# ")
        elif row := _ROW.fullmatch(line):
            statuses, retryable, meaning, advice = (cell.strip() for cell in row[2].split("|"))
            found.setdefault(title, []).append(ErrorRow(row[1], statuses, retryable, _html(meaning), _html(advice)))
    return found


def _html(cell: str) -> Markup:
    """Convert Markdown's code to HTML. Only the words of a link are kept, because its page is not served here."""
    escaped = str(escape(_LINK.sub(r"\1", cell)))
    return Markup(_CODE.sub(r"<code>\1</code>", escaped))  # noqa: S704 - escaped before
