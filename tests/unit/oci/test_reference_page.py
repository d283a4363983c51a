"""Every example of docs/reference/references.md is true."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from mirror.errors import InvalidReference, TargetReserved
from mirror.oci.local_image import LocalImage
from mirror.oci.reference import Reference
from tests.support.names import default_target

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "references.md"


def examples(heading: str) -> list[list[str]]:
    """Return the texts in backticks of each row of the first table under *heading*, with whole digests."""
    section = PAGE.read_text(encoding="utf-8").split(f"# {heading}\n", 1)[1]
    table = section[section.index("\n| ") :].split("\n\n")[0]
    rows = [re.findall(r"`([^`]+)`", line) for line in table.replace("sha256:…", "sha256:" + "f" * 64).splitlines()]
    return [row for row in rows if row]


@pytest.mark.parametrize("row", examples("What a source is read as"), ids=lambda row: row[0])
def test_a_source_is_parsed_as_the_page_says(row: list[str]) -> None:
    assert str(Reference.parse(row[0])) == row[1]


@pytest.mark.parametrize("row", examples("What is refused"), ids=lambda row: row[0])
def test_a_source_is_refused_as_the_page_says_and_its_alternative_is_not(row: list[str]) -> None:
    refused, *alternatives = row
    with pytest.raises(InvalidReference):
        Reference.parse(refused)
    assert all(Reference.parse(alternative) for alternative in alternatives if "-" not in alternative)


@pytest.mark.parametrize("row", examples("What the target becomes"), ids=lambda row: row[0])
def test_a_target_becomes_what_the_page_says(row: list[str]) -> None:
    source, target, pulled = row
    assert str(default_target(Reference.parse(source))) == target
    assert pulled == f"mirror.corp/{target}"


@pytest.mark.parametrize("row", examples("Reserved targets"), ids=lambda row: row[0])
def test_a_target_is_reserved_as_the_page_says(row: list[str]) -> None:
    firsts = [cell.removesuffix("/…") for cell in row if cell.endswith("/…")]
    owners = [cell for cell in row if not cell.endswith("/…") and ("." in cell or ":" in cell or cell == "localhost")]
    for first in firsts:
        target = LocalImage(f"{first}/app", "1")
        if not owners:
            target.require_source("other.example", "other.example/app:1")
            continue
        target.require_source(owners[0].replace(":", "_"), f"{owners[0]}/app:1")
        with pytest.raises(TargetReserved):
            target.require_source("other.example", "other.example/app:1")


@pytest.mark.parametrize("row", examples("Names of official images"), ids=lambda row: row[0])
def test_an_official_name_accepts_what_the_page_says(row: list[str]) -> None:
    target = LocalImage(row[0], "1")
    source = Reference.parse(row[-1])
    target.require_source(source.registry, str(source))
    with pytest.raises(TargetReserved):
        target.require_source("docker.io", "docker.io/someone/redis:7")
