"""docs/explanation/architecture.md describes the packages that exist, and docs/adr/README.md the decisions."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).resolve().parents[2]
PAGE: Final = (ROOT / "docs" / "explanation" / "architecture.md").read_text(encoding="utf-8")
DECISIONS: Final = ROOT / "docs" / "adr"


def test_every_package_is_in_the_table_of_folders() -> None:
    packages = sorted(path.parent.name for path in (ROOT / "mirror").glob("*/__init__.py"))
    assert packages
    assert [name for name in packages if f"\n| `mirror/{name}/` |" not in PAGE] == []


def test_the_list_of_decisions_has_each_with_its_title() -> None:
    listed = re.findall(r"^\| (\d+) \| \[([^]]+)\]\(([^)]+)\) \|$", (DECISIONS / "README.md").read_text(), re.MULTILINE)
    titles = {path.name: path.read_text().partition("\n")[0] for path in DECISIONS.glob("[0-9]*.md")}
    assert {name: f"# {number}. {title}" for number, title, name in listed} == titles


@pytest.mark.parametrize(
    ("way", "least", "most"), [("One reference", 20, 25), ("One slot", 6, 12), ("One pull", 8, 12)]
)
def test_every_function_on_the_way_through_the_house_exists(way: str, least: int, most: int) -> None:
    [section] = [section for section in PAGE.split("\n## ") if section.startswith(way)]
    steps = re.findall(r"^\d+\. `([\w/]+\.py):([\w.]+)` ", section, re.MULTILINE)
    assert least <= len(steps) <= most
    assert [f"{path}:{name}" for path, name in steps if name not in _functions(ROOT / path)] == []


def _functions(path: Path) -> set[str]:
    """Return the functions of a module, and the methods of its classes as ``Class.method``."""
    found: set[str] = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef):
            found.add(node.name)
        elif isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{method.name}" for method in node.body if isinstance(method, ast.FunctionDef)}
    return found
