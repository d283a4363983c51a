"""The reference page of the settings says what the code does."""

from __future__ import annotations

import re

import pytest

from mirror.settings import Settings
from tests.unit.settings.loading import PAGE, load


def test_the_examples_of_redirects_on_the_reference_page_are_right(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = re.findall(r"^\| `(http\S+)` \| (?:`(\S+)`|AWS) \| (redirected|streamed)", PAGE.read_text(), re.MULTILINE)
    assert len(rows) == 6
    for mirror, s3, what in rows:
        loaded = load(monkeypatch, PUBLIC_URL=mirror, S3_ENDPOINT=s3, S3_BUCKET="images")
        assert loaded.redirects_blobs is (what == "redirected"), (mirror, s3)


def test_the_tables_of_the_reference_page_are_the_declarations() -> None:
    """A failure shows the rows that the page should have."""
    rows = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| `MIRROR_")]
    assert rows == [
        f"| `MIRROR_{name.upper()}` | {setting.default} | {setting.meaning} |"
        for name, setting in Settings.declared().items()
    ]


def test_a_default_on_the_reference_page_is_the_default_of_the_setting() -> None:
    """Where the page shows a value, that value is what an unset variable means."""
    shown = {
        name: re.fullmatch(r"`((?!MIRROR_)[^`]+)`", setting.default) for name, setting in Settings.declared().items()
    }
    values = {name: match[1] for name, match in shown.items() if match}
    assert values.keys() >= {"host", "port", "data_dir", "s3_region", "workers", "memory_budget", "job_retention"}
    for name, value in values.items():
        assert Settings.declared()[name].parse(value) == getattr(Settings(), name)


def test_a_setting_without_a_default_on_the_reference_page_has_none() -> None:
    unset = {name for name, setting in Settings.declared().items() if setting.default == "none"}
    assert {name for name in unset if getattr(Settings(), name)} == set()
    assert unset >= {"s3_prefix", "s3_sync_folder", "allowed_networks", "docker_config", "heartbeat_path"}


def test_every_meaning_on_the_reference_page_is_whole_sentences() -> None:
    for setting in Settings.declared().values():
        assert setting.meaning.endswith(".")
        assert "|" not in setting.meaning
