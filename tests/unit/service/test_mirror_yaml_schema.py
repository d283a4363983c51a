"""The JSON Schema of mirror.yaml accepts what the reader accepts, and the pages about the file are true."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Final

import jsonschema_rs
import pytest
import yaml

from mirror.errors import SyncFileInvalid
from mirror.schedules.sync_file import read_sync_file
from service.api.sync_file.json_schema import mirror_yaml_schema

DOCS: Final = Path(__file__).parents[3] / "docs"
COMMITTED: Final = (DOCS / "mirror.yaml.schema.json").read_text(encoding="utf-8")
SCHEMA: Final = json.loads(COMMITTED)
VALIDATOR: Final = jsonschema_rs.validator_for(SCHEMA)
REFERENCE: Final = (DOCS / "reference/mirror-yaml.md").read_text(encoding="utf-8")
PAGES: Final = sorted(DOCS.rglob("*.md"))
EXAMPLES: Final = [
    pytest.param(block, id=f"{page.name}-{number}")
    for page in PAGES
    for number, block in enumerate(re.findall(r"^```yaml\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL))
    if re.search(r"^syncs:", block, re.MULTILINE)
]
START: Final = "version: 1\nsyncs:\n  - "
JOB: Final = "job: {source: redis:7}"


def is_accepted(text: str) -> bool:
    try:
        read_sync_file(text)
    except SyncFileInvalid:
        return False
    return True


def test_the_committed_schema_is_the_schema_and_valid_itself() -> None:
    made = mirror_yaml_schema("https://mirror.corp")
    assert made == COMMITTED, (
        "write it anew: python -m service.api.sync_file.json_schema > docs/mirror.yaml.schema.json"
    )
    assert jsonschema_rs.meta.is_valid(SCHEMA)
    assert SCHEMA["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert SCHEMA["$id"] == "https://mirror.corp/schemas/mirror.yaml.json"
    assert '"#/components' not in COMMITTED


@pytest.mark.parametrize("page", ["reference/mirror-yaml.md", "how-to/mirror-from-git.md"])
def test_an_example_begins_with_the_line_that_editors_read(page: str) -> None:
    start = r"^```yaml\n# yaml-language-server: \$schema=https?://\S+/schemas/mirror\.yaml\.json\nversion: 1\n"
    assert re.search(start, (DOCS / page).read_text(encoding="utf-8"), re.MULTILINE)


@pytest.mark.parametrize("example", EXAMPLES)
def test_every_example_is_a_sync_file_that_editors_complete(example: str) -> None:
    variables = dict.fromkeys(re.findall(r"\$\{(\w+)\}", example), "value")
    assert read_sync_file(example, variables).syncs
    VALIDATOR.validate(yaml.safe_load(example))


@pytest.mark.parametrize(
    "text",
    [
        "version: 1\nsyncs: []\n",
        START + f"{{name: a, every: 6h, labels: {{team: base}}, {JOB}}}",
        START + "{name: a, cron: '@daily', job: {source: {repository: alpine}, tags: {allow: [{glob: '3.*'}]}}}",
        START + "{name: a, cron: '@daily', job: {source: alpine, target: [a/b, {template: 'c/{name}:{tag}'}]}}",
        START + "{name: a, cron: '@daily', job: {source: alpine, target: {strip_prefix: library}, referrers: [a/b]}}",
        START + "{name: a, cron: '@daily', job: {images: [{source: redis, target: null}], atomic: true}}",
        START + f"{{name: a, every: null, cron: '@daily', delete_brake: {{max_count: 3}}, {JOB}}}",
        "version: 1\nx-a: [1]\nsyncs: []\ncredentials: {a: {registry: a.corp, identity_token: '${T}'}}\n",
        "version: 1\nsyncs: []\ndefaults: {overlap: queue, job: {platforms: {only: [linux/amd64], mode: single}}}\n",
    ],
)
def test_what_the_reader_accepts_the_schema_accepts(text: str) -> None:
    assert is_accepted(text)
    VALIDATOR.validate(yaml.safe_load(text))


@pytest.mark.parametrize(
    "text",
    [
        "syncs: []\n",
        "version: 2\nsyncs: []\n",
        "version: 1\n",
        "version: 1\nsyncs: {}\n",
        "version: 1\nsyncs: []\nsync: []\n",
        "version: 1\nsyncs: []\ndefaults: {name: a}\n",
        "version: 1\nsyncs: []\ndefaults: {job: {source: a}}\n",
        "version: 1\nsyncs: []\ncredentials: {Hub: {registry: a.corp, identity_token: t}}\n",
        "version: 1\nsyncs: []\ncredentials: {a: {registry: a.corp, token: t}}\n",
        START + f"{{every: 6h, {JOB}}}",
        START + "{name: a, every: 6h}",
        START + f"{{name: A, every: 6h, {JOB}}}",
        START + f"{{name: a/b, every: 6h, {JOB}}}",
        START + f"{{name: a, every: 6h, overlap: wait, {JOB}}}",
        START + "{name: a, every: 6h, job: {source: redis, tgas: {}}}",
        START + "{name: a, every: 6h, job: {source: 7}}",
        START + "{name: a, every: 6h, job: {source: {repo: redis}}}",
        START + "{name: a, every: 6h, job: {source: redis, target: {templat: a}}}",
        START + "{name: a, every: 6h, job: {source: redis, tags: {allow: ['3.*']}}}",
        START + "{name: a, every: 6h, job: {plan: plan_1}}",
    ],
)
def test_usual_mistakes_are_marked_in_an_editor(text: str) -> None:
    assert not is_accepted(text)
    assert not VALIDATOR.is_valid(yaml.safe_load(text))


def test_the_page_has_every_key_of_a_sync_and_of_a_credential() -> None:
    def first_cells(before: str) -> set[str]:
        table = REFERENCE.partition(before)[2].partition("\n\n")[0]
        cells = [row.split("|")[1] for row in table.splitlines() if row.startswith("| `")]
        return {key for cell in cells for key in re.findall(r"`([^`]+)`", cell)}

    def keys(name: str) -> set[str]:
        found: dict[str, Any] = SCHEMA["$defs"][name]["properties"]
        return set(found)

    assert first_cells("| key | default | meaning |\n") == keys("ScheduleRequest")
    assert first_cells("one login:\n\n") == keys("Credential")
    assert first_cells("## Keys\n") == {*SCHEMA["properties"], "x-…"}
    options = REFERENCE.partition("`defaults.job` takes")[2].partition("An option")[0]
    assert set(re.findall(r"`([^`]+)`", options)) == keys("JobDefaults")
