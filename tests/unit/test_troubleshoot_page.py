"""The texts that docs/how-to/troubleshoot.md quotes are those that the programs print."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).resolve().parents[2]
PAGE: Final = (ROOT / "docs" / "how-to" / "troubleshoot.md").read_text(encoding="utf-8")
PROGRAMS: Final = ("mirror", "service", "worker", "deploy/local")
FIELD: Final = "…"
"""Stands for a value, on the page and for a field of an f-string."""


def quoted() -> list[str]:
    """Return the texts in quotation marks, the lines of the log, and what a failed start prints."""
    prose = re.sub(r"^```.*?^```$|`[^`\n]*`", "", PAGE, flags=re.MULTILINE | re.DOTALL)
    rows_of_the_log = re.findall(r"^\| the log \| ([^|]+)", PAGE, re.MULTILINE)
    [start] = [section for section in PAGE.split("\n## ") if section.startswith("It does not start")]
    return sorted(
        {
            *re.findall(r'"([^"\n]+)"', prose),
            *(line for row in rows_of_the_log for line in re.findall(r"`([^`]+)`", row)),
            *re.findall(r"^\| `([^`]+)`", start, re.MULTILINE),
        }
    )


@cache
def printed() -> frozenset[str]:
    """Return every text in the programs."""
    return frozenset(text for folder in PROGRAMS for path in (ROOT / folder).rglob("*.py") for text in _texts(path))


def _texts(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value
        elif isinstance(node, ast.JoinedStr):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else FIELD for part in node.values)


@pytest.mark.parametrize("text", quoted())
def test_a_quoted_text_is_printed_by_a_program(text: str) -> None:
    longest = max(text.split(FIELD), key=len).strip(": ")
    assert any(longest in known for known in printed())
