"""Every example of names in docs/reference/selection.md is true, and the page has all fields."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import pytest

from mirror.copying.naming import TargetNamer
from mirror.oci.name_template import TEMPLATE_FIELDS
from mirror.oci.reference import Reference
from mirror.records.rule_schemas import TARGET_RULE

PAGE: Final = Path(__file__).parents[3] / "docs" / "reference" / "selection.md"
NAMES: Final = PAGE.read_text(encoding="utf-8").split("\n## Names\n", 1)[1].split("\n## ")[0]
NAMER: Final = TargetNamer("mirror.example", datetime(2026, 11, 28, tzinfo=UTC))


def rows(first_cell: str) -> list[list[str]]:
    """Return the rows of the table whose header begins with *first_cell*, each as its texts in backticks."""
    table = NAMES.split(f"| {first_cell} |", 1)[1].split("\n\n")[0]
    return [re.findall(r"`([^`]+)`", line) for line in table.replace("sha256:…", "sha256:" + "f" * 64).splitlines()[2:]]


@pytest.mark.parametrize("row", rows("source"), ids=lambda row: row[2])
def test_a_target_becomes_what_the_page_says(row: list[str]) -> None:
    source, written, expected = row
    target = json.loads(written)
    rule = TARGET_RULE.load({"template": target} if isinstance(target, str) else target)
    assert str(NAMER.target(rule, Reference.parse(source))) == expected


def test_the_page_has_every_field_of_a_rule_and_of_a_template_and_no_other() -> None:
    assert [row[0] for row in rows("field of `target`")] == list(TARGET_RULE.fields)
    assert [row[0] for row in rows("field of the template")] == [f"{{{field}}}" for field in TEMPLATE_FIELDS]
