"""The page of formats lists the examples that are tested, and says which registry they come from."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from tests.support.formats import FORMATS

PAGE: Final = (Path(__file__).parents[2] / "docs/reference/formats.md").read_text()
_ROW: Final = re.compile(r"\| [^|]+ \| ((?:`[a-z0-9-]+`(?:, )?)+) \| (stock|scripted|stock, scripted) \|")
ROWS: Final = [match.groups() for line in PAGE.splitlines() if (match := _ROW.fullmatch(line))]


def test_the_page_lists_every_tested_format() -> None:
    listed = {name for examples, _ in ROWS for name in re.findall(r"`([^`]+)`", examples)}
    assert listed == set(FORMATS)


def test_the_page_names_the_registry_of_each_format() -> None:
    for examples, source in ROWS:
        names = re.findall(r"`([^`]+)`", examples)
        used = {"scripted" if FORMATS[name].stock_refuses else "stock" for name in names}
        assert set(source.split(", ")) == used
