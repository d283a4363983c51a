"""An export is a mirror.yaml that reads as the schedules that were written."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirror.schedules.export import write_sync_file
from mirror.schedules.yaml_reader import read_yaml

IMPORTS: Final = Path(__file__).parent / "imports"
NIGHTLY = {
    "job": {"tags": {"latest": {"count": 3}, "semver": ">=3.18 <4"}, "source": {"repository": "alpine"}},
    "labels": {"team": "web", "cost": "1e3"},
    "time_zone": "Europe/Paris",
    "cron": "30 2 * * *",
    "name": "nightly",
}
TEXTS = st.text(max_size=12) | st.sampled_from(
    [
        "0o17",
        "0x1f",
        "1e3",
        "007",
        "1.10",
        "yes",
        "~",
        "null",
        "<<",
        "=",
        "- a",
        "a: b",
        "#",
        "{x}",
        "@daily",
        "2024-01-01",
    ]
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS.filter(bool), inner, max_size=3),
    max_leaves=10,
)
JOBS = st.dictionaries(TEXTS.filter(bool), JSON, max_size=4)


def test_an_export_is_in_block_style_and_in_a_stable_order() -> None:
    text = write_sync_file([NIGHTLY, {"name": "a", "every": "6h", "job": {"source": "redis:7"}}])
    assert text == (
        '# Schedules of the mirror. Each entry of "syncs" is a schedule as POST /v1/schedules takes it.\n'
        "# It has no credentials: those for sources are in the file that MIRROR_DOCKER_CONFIG names.\n"
        "version: 1\n"
        "syncs:\n"
        "- name: a\n"
        "  every: 6h\n"
        "  job:\n"
        "    source: redis:7\n"
        "\n"
        "- name: nightly\n"
        "  cron: 30 2 * * *\n"
        "  time_zone: Europe/Paris\n"
        "  labels:\n"
        "    team: web\n"
        "    cost: '1e3'\n"
        "  job:\n"
        "    source:\n"
        "      repository: alpine\n"
        "    tags:\n"
        "      latest:\n"
        "        count: 3\n"
        "      semver: '>=3.18 <4'\n"
    )


def test_the_order_of_the_schedules_and_of_their_keys_does_not_matter() -> None:
    other: dict[str, Any] = {"name": "b", "every": "1h", "job": {}}
    assert write_sync_file([NIGHTLY, other]) == write_sync_file([other, dict(reversed(NIGHTLY.items()))])


def test_a_value_that_occurs_twice_is_written_twice() -> None:
    shared = {"only": ["linux/amd64"]}
    text = write_sync_file([{"name": name, "job": {"platforms": shared}} for name in "ab"])
    assert "&" not in text
    assert text.count("linux/amd64") == 2


def test_a_public_key_is_a_block() -> None:
    key = "-----BEGIN PUBLIC KEY-----\nMFkw\n-----END PUBLIC KEY-----\n"
    text = write_sync_file([{"name": "a", "job": {"signature": {"keys": [key]}}}])
    assert "      - |\n        -----BEGIN PUBLIC KEY-----\n        MFkw\n" in text
    assert read_yaml(text).plain()["syncs"][0]["job"]["signature"]["keys"] == [key]


def test_no_schedules_are_an_empty_list() -> None:
    assert read_yaml(write_sync_file([])).plain() == {"version": 1, "syncs": []}


@pytest.mark.parametrize(
    "path", sorted(IMPORTS.glob("*/*.expected.yaml")), ids=lambda path: f"{path.parent.name}/{path.name}"
)
def test_what_was_imported_can_be_exported(path: Path) -> None:
    schedules = read_yaml(path.read_text()).plain()["schedules"]
    found = read_yaml(write_sync_file(schedules)).plain()["syncs"]
    assert found == sorted(schedules, key=lambda one: str(one["name"]))


@given(st.lists(JOBS, max_size=3))
def test_an_export_reads_as_what_was_written(jobs: list[dict[str, Any]]) -> None:
    definitions = [{"name": f"n{index}", "every": "6h", "job": job} for index, job in enumerate(jobs)]
    assert read_yaml(write_sync_file(definitions)).plain() == {"version": 1, "syncs": definitions}
