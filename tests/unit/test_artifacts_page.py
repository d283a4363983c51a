"""docs/reference/artifacts.md shows the cells that are tested, and the tools that wrote the fixtures."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Final

from tests.support.artifact_matrix import KINDS, SOURCES, cells
from tests.support.artifacts import FOLDER, StoredRepository

ROOT: Final = Path(__file__).resolve().parents[2]
PAGE: Final = (ROOT / "docs" / "reference" / "artifacts.md").read_text(encoding="utf-8")
SOURCE_NAMES: Final = {"referrers API": "api", "fallback tag": "fallback"}


def rows() -> list[list[str]]:
    """Return the cells of each row of the matrix."""
    split = [[cell.strip() for cell in line.strip("|").split("|")] for line in PAGE.splitlines()]
    return [row for row in split if len(row) == 4 and row[1] in SOURCE_NAMES]


def test_the_page_shows_each_cell_of_the_matrix() -> None:
    assert len(rows()) == len(KINDS) * len(SOURCES)
    ids = re.findall(r"`([a-z0-9-]+)`", " ".join(" ".join(row[2:]) for row in rows()))
    assert ids == [cell.id for cell in cells() if cell.missing is None]


def test_a_cell_that_cannot_be_says_why() -> None:
    missing = [(cell.source, cell.missing) for cell in cells() if cell.missing and cell.reader == "mirror"]
    shown = [(SOURCE_NAMES[row[1]], text) for row in rows() for text in row[2:] if "`" not in text]
    assert shown == missing


def test_the_test_of_the_cells_exists() -> None:
    [(path, name)] = re.findall(r"`(tests/[\w/]+\.py)::(\w+)\[", PAGE)
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_the_page_names_the_tools_that_wrote_the_fixtures() -> None:
    versions = dict(line.split(maxsplit=1) for line in (FOLDER / "versions.txt").read_text().splitlines())
    shown = dict(re.findall(r"^\| ([\w-]+) \| (v?[0-9][\w.-]*) \|", PAGE, re.MULTILINE))
    assert shown == versions


def test_the_fixtures_are_small_and_whole() -> None:
    paths = sorted(FOLDER.glob("*.json"))
    assert {path.stem for path in paths} == {f"{cell.kind.id}-{cell.source}" for cell in cells()}
    for path in paths:
        assert path.stat().st_size < 64 * 1024, path
        stored = StoredRepository.load(path.stem)
        assert set(stored.tags.values()) <= set(stored.manifests)
        held = {blob for digest in stored.manifests for blob in stored.blobs_of(digest)}
        assert held == set(stored.blobs)
