"""docs/explanation/architecture.md describes the packages that exist, and docs/adr/README.md the decisions."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

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
