"""The files and commands of a documentation page.

A test does exactly what the page says.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.support.servers.process import REPOSITORY

_HEADING: Final = re.compile(r"^(#+) (.+)$")
_FENCE: Final = "```"
_PATH: Final = re.compile(r"^`([/~]\S+)`$")


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block, and the path on the line above it, if there is one."""

    language: str
    text: str
    path: str | None


@dataclass(frozen=True, slots=True)
class Section:
    """The blocks under one heading, without those under other headings."""

    title: str
    blocks: tuple[Block, ...]

    @property
    def files(self) -> dict[str, str]:
        """Return the text of each file, by its path."""
        return {block.path: block.text for block in self.blocks if block.path}

    @property
    def commands(self) -> list[str]:
        """Return the commands to type.

        A line that ends with a backslash is joined with the next one.
        """
        typed = "".join(block.text for block in self.blocks if block.language == "sh")
        return typed.replace("\\\n", " ").splitlines()

    def text(self, language: str) -> str:
        """Return the only block in *language* that is no file."""
        [found] = [block.text for block in self.blocks if block.language == language and not block.path]
        return found


def sections(page: Path) -> dict[str, Section]:
    """Return all sections by title.

    A third-level title is ``second-level title/own title``.
    """
    found: dict[str, list[Block]] = {}
    for title, block in _titled(page.read_text().splitlines()):
        blocks = found.setdefault(title, [])
        if block:
            blocks.append(block)
    return {title: Section(title, tuple(blocks)) for title, blocks in found.items()}


def documentation(name: str) -> Path:
    return REPOSITORY / "docs" / name


def _titled(lines: list[str]) -> Iterator[tuple[str, Block | None]]:
    """Yield each heading without a block, and each block with its heading."""
    titles: list[str] = []
    rest = enumerate(lines)
    for number, line in rest:
        if heading := _HEADING.match(line):
            titles = [*titles[: len(heading[1]) - 2], heading[2]] if len(heading[1]) > 1 else []
            yield "/".join(titles), None
        elif line.startswith(_FENCE):
            path = _PATH.match(lines[number - 1])
            body = []
            for _, inner in rest:
                if inner.startswith(_FENCE):
                    break
                body.append(inner + "\n")
            yield "/".join(titles), Block(line.removeprefix(_FENCE), "".join(body), path[1] if path else None)
