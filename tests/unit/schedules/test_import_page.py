"""The page about imports has the keys that the code has, and the texts of the tests have the keys of the page."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any, Final

import pytest

from mirror.schedules.importers.read import IGNORED_KEYS, IMPORT_FORMATS, ImportFormat
from mirror.schedules.yaml_reader import read_yaml_stream

PAGE: Final = Path(__file__).parents[3] / "docs" / "reference" / "import.md"
FOLDER: Final = Path(__file__).parent / "imports"
ROW: Final = re.compile(r"^\| (`[^|]*`) \| (.*) \|$", re.MULTILINE)


@cache
def rows(kind: ImportFormat) -> dict[str, str]:
    """Return what the page says of each key of a format."""
    section = PAGE.read_text().partition(f"\n## {kind}\n")[2].partition("\n## ")[0]
    table = section.partition("| key |")[2].partition("\n\n")[0]
    found = {key: text for keys, text in ROW.findall(table) for key in re.findall(r"`([^`]+)`", keys)}
    assert found
    return found


def keys_in(value: Any, path: str = "") -> set[str]:
    """Return the keys of a value as the page writes them."""
    if isinstance(value, dict):
        paths = {key: f"{path}.{key}" if path else key for key in value}
        return set(paths.values()).union(*(keys_in(value[key], paths[key]) for key in value))
    return set().union(*(keys_in(one, f"{path}[]") for one in value)) if isinstance(value, list) else set()


def expression(key: str) -> re.Pattern[str]:
    """Return what matches a key of the page: ``*`` is any key, also one with dots."""
    return re.compile(re.escape(key).replace(r"\*", r"[^\[\]]+"))


@cache
def covered_keys(kind: ImportFormat) -> frozenset[str]:
    """Return the keys of the texts of a format. Items of a Kubernetes list are resources."""
    texts = [path for path in (FOLDER / kind).glob("*") if ".expected." not in path.name]
    documents = [node.plain() for path in texts for node in read_yaml_stream(path.read_text())]
    return frozenset(key.removeprefix("items[].") for document in documents for key in keys_in(document))


@pytest.mark.parametrize("kind", IMPORT_FORMATS)
def test_the_page_says_which_keys_are_ignored(kind: ImportFormat) -> None:
    ignored = {key for key, text in rows(kind).items() if text.startswith("ignored:")}
    assert ignored == set(IGNORED_KEYS[kind])


@pytest.mark.parametrize("kind", IMPORT_FORMATS)
def test_each_key_of_the_page_is_in_a_text_of_the_tests(kind: ImportFormat) -> None:
    assert [key for key in rows(kind) if not any(map(expression(key).fullmatch, covered_keys(kind)))] == []


@pytest.mark.parametrize("kind", ["regsync", "flux-mirror"])
def test_each_key_of_the_texts_is_on_the_page(kind: ImportFormat) -> None:
    """A key is there, or one around it or in it is. Unknown keys are the subject of some texts."""
    known = [expression(key) for key in rows(kind)]
    missing = {
        key
        for key in covered_keys(kind)
        if not any(one.match(key) for one in known)
        and not any(row.startswith((f"{key}.", f"{key}[]")) for row in rows(kind))
    }
    assert (
        missing
        == {"regsync": {"sync[].sheduel"}, "flux-mirror": {"artifacts[].selectr", "artifacts[].selectr.limit"}}[kind]
    )
