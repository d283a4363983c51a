"""Imports have the right meaning, and drop no key silently.

The folder ``imports`` has texts of each format, written after its documentation, and next to each what is expected.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mirror.errors import DocumentMalformed
from mirror.records.job_request import JobRequestSchema
from mirror.schedules.definition import ScheduleRequestSchema
from mirror.schedules.importers import drafts
from mirror.schedules.importers.document import Imported, join_path
from mirror.schedules.importers.read import IMPORT_FORMATS, ImportFormat, read_import
from mirror.schedules.yaml_reader import Node, read_yaml, read_yaml_stream

FOLDER: Final = Path(__file__).parent / "imports"
TEXTS: Final = sorted(path for path in FOLDER.glob("*/*") if ".expected." not in path.name)
FLUX: Final = "apiVersion: mirror.plugin.fluxcd.io/v1beta2\nkind: Config\n"

Path_ = tuple[str | int, ...]


def import_format(path: Path) -> ImportFormat:
    return cast("ImportFormat", path.parent.name)


def name_of(path: Path) -> str:
    return f"{path.parent.name}/{path.name}"


def imported(path: Path) -> Imported:
    return read_import(import_format(path), path.read_text())


def documents_of(path: Path) -> list[Any]:
    """Return the documents of a text as JSON, with numbers as they were written."""
    return [as_written(node) for node in read_yaml_stream(path.read_text())]


def as_written(node: Node) -> Any:
    if isinstance(node.value, dict):
        return {key: as_written(inner) for key, inner in node.value.items()}
    if isinstance(node.value, tuple):
        return [as_written(inner) for inner in node.value]
    return node.text if isinstance(node.value, float) else node.value


def keys_of(value: Any, path: Path_ = ()) -> Iterator[Path_]:
    """Yield the paths of all keys."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, one in inner:
        if isinstance(value, dict):
            yield (*path, key)
        yield from keys_of(one, (*path, key))


def paths_to(key: Path_, *, is_stream: bool) -> Iterator[str]:
    """Yield the path of a key as an import writes it, and those of all around it."""
    path = f"documents[{key[0]}]" if is_stream else ""
    for step in key[1:]:
        around, path = path, f"{path}[{step}]" if isinstance(step, int) else join_path(path, step)
        yield path
        yield re.sub(r"\[\d+\]$", "[]", around) + path.removeprefix(around)  # named once for all items of a list


def outcome(kind: ImportFormat, documents: list[Any]) -> Any:
    """Return all that an import says, without lines."""
    text = "\n---\n".join(json.dumps(document) for document in documents)
    try:
        found = read_import(kind, text)
    except DocumentMalformed as error:
        return error.reason
    lists = [[(one.path, one.reason) for one in findings] for findings in (found.ignored, found.refused)]
    return found.schedules, lists, found.notes


def changed(documents: list[Any], path: Path_, *, is_deleted: bool) -> list[Any]:
    """Return the documents without the key at *path*, or with nonsense as its value."""
    result = copy.deepcopy(documents)
    around: Any = result
    for step in path[:-1]:
        around = around[step]
    if is_deleted:
        del around[path[-1]]
    else:
        around[path[-1]] = {"nonsense": [{}]}
    return result


@pytest.mark.parametrize("path", TEXTS, ids=name_of)
def test_each_text_becomes_what_is_expected(path: Path) -> None:
    found = imported(path)
    expected = read_yaml(path.with_name(f"{path.stem}.expected.yaml").read_text()).plain()
    assert list(found.schedules) == expected["schedules"]
    assert {one.path: one.line for one in found.ignored} == expected["ignored"]
    assert {one.path: one.reason for one in found.refused} == expected["refused"]
    assert list(found.notes) == expected["notes"]


@pytest.mark.parametrize("path", TEXTS, ids=name_of)
def test_each_schedule_is_one_that_the_api_takes(path: Path) -> None:
    found = imported(path)
    names = [schedule["name"] for schedule in found.schedules]
    assert len(set(names)) == len(names)
    for schedule in found.schedules:
        JobRequestSchema().load(schedule["job"])
        ScheduleRequestSchema().load(schedule)


@pytest.mark.parametrize("path", [path for path in TEXTS if path.stem != "refused"], ids=name_of)
def test_no_key_is_dropped_silently(path: Path) -> None:
    """Without a key, or with nonsense in its place, the import says something else."""
    documents = documents_of(path)
    kind = import_format(path)
    before = outcome(kind, documents)
    named = {one.path for one in imported(path).ignored}
    silent = [
        key
        for key in keys_of(documents)
        if not any(str(step).startswith("x-") for step in key)
        and named.isdisjoint(paths_to(key, is_stream=len(documents) > 1))
        and outcome(kind, changed(documents, key, is_deleted=True)) == before
        and outcome(kind, changed(documents, key, is_deleted=False)) == before
    ]
    assert silent == []


@pytest.mark.parametrize(
    ("kind", "text", "path"),
    [
        ("regsync", "sync: []\nsink: 1", "sink"),
        ("regsync", "sync:\n- {source: a, target: b.c/d, type: image, tag: x}", "sync[0].tag"),
        ("regsync", "sync:\n- {source: a, target: b.c/d, type: repository, tags: {alow: []}}", "sync[0].tags.alow"),
        ("regsync", "sync: []\ndefaults: {ratelimit: {max: 1}}", "defaults.ratelimit.max"),
        ("skopeo", "a.example: {images: {b: [c]}, image: {}}", "['a.example'].image"),
        ("flux-mirror", FLUX + "artefacts: []", "artefacts"),
        ("kuik", "{apiVersion: kuik.enix.io/v1, kind: CachedImage, spec: {sourceImage: a, keep: 1}}", "spec.keep"),
    ],
)
def test_an_unknown_key_is_named(kind: ImportFormat, text: str, path: str) -> None:
    [ignored] = read_import(kind, text).ignored
    assert (ignored.path, ignored.line) == (path, text.count("\n") + 1)
    assert ignored.reason.startswith("This key is unknown")


@pytest.mark.parametrize("path", TEXTS, ids=name_of)
def test_secrets_are_never_shown(path: Path) -> None:
    assert "hunter2" not in repr(imported(path))


@pytest.mark.parametrize(
    ("kind", "text", "path", "registry"),
    [
        ("regsync", "sync: []\ncreds: [{registry: a.example, pass: hunter2}]", "creds[0].pass", "'a.example'"),
        ("regsync", "sync: []\ncreds: [{registry: 'u:hunter2@b', pass: x}]", "creds[0].pass", "this registry"),
        (
            "skopeo",
            "a.example: {images: {b: [c]}, credentials: {password: hunter2}}",
            "['a.example'].credentials.password",
            "'a.example'",
        ),
        (
            "image-syncer",
            "a.example/team: {username: x, password: hunter2}",
            "['a.example/team'].password",
            "'a.example'",
        ),
        ("flux-mirror", FLUX + "hosts: [{host: a.example, credential: hunter2}]", "hosts[0].credential", "'a.example'"),
    ],
)
def test_credentials_are_named_with_their_registry(kind: ImportFormat, text: str, path: str, registry: str) -> None:
    found = read_import(kind, text)
    assert "hunter2" not in repr(found)
    reasons = {one.path: one.reason for one in found.ignored}
    assert f"Credentials of {registry} are not imported" in reasons[path]
    assert "MIRROR_DOCKER_CONFIG" in reasons[path]


@pytest.mark.parametrize(
    ("kind", "text", "message"),
    [
        ("regsync", "a: b: c", "line 1, column 5: a second ':'"),
        ("regsync", "- a", "line 1, column 1: a mapping is expected here, not a list"),
        ("regsync", "", "line 1, column 1: a mapping is expected here, not nothing"),
        ("regsync", "version: 2\nsync: []", "line 1, column 1, version: only version 1"),
        ("regsync", "images: {}", "line 1, column 1: there is no 'sync'"),
        ("regsync", "sync: 3", "line 1, column 1, sync: a list is expected here, not a number"),
        (
            "regsync",
            "sync: []\ndefaults:\n  interval: soon",
            "line 3, column 3, defaults.interval: it is not a duration",
        ),
        ("flux-mirror", "kind: Config", "line 1, column 1, apiVersion: the key 'apiVersion' is missing"),
        ("flux-mirror", "apiVersion: v1\nkind: Config", "line 1, column 1: it is not a Config of flux-mirror"),
        ("kuik", "[]", "line 1, column 1: a mapping is expected here, not a list"),
        ("kuik", "apiVersion: v1\nkind: Secret", "line 1, column 1: it is no resource of kube-image-keeper"),
        ("skopeo", "just a text", "line 1, column 1: a mapping is expected here, not a text"),
        ("image-syncer", "a: 1\na: 2", "line 2, column 1: the key 'a' is in line 1 already"),
    ],
)
def test_a_text_of_another_format_is_refused_as_a_whole(kind: ImportFormat, text: str, message: str) -> None:
    with pytest.raises(DocumentMalformed) as refused:
        read_import(kind, text)
    assert refused.value.message.startswith(message)


def test_a_schedule_without_a_time_gets_the_given_timetable() -> None:
    found = read_import("skopeo", "a.example: {images: {b: [c]}}", {"cron": "0 2 * * *", "time_zone": "Europe/Paris"})
    assert found.schedules[0]["cron"] == "0 2 * * *"
    assert found.schedules[0]["time_zone"] == "Europe/Paris"
    assert found.notes[-1].endswith("cron: 0 2 * * *, time_zone: Europe/Paris.")


def test_names_of_schedules_are_valid_and_unique() -> None:
    sources = [*["a.example:5000/B"] * 2, *[f"a.example/{'x' * 80}"] * 12, "redis", "redis-2", "redis"]
    text = json.dumps({"sync": [{"source": one.lower(), "target": "m.example/t", "type": "image"} for one in sources]})
    names = [schedule["name"] for schedule in read_import("regsync", text).schedules]
    assert names[:2] == ["a.example-5000-b", "a.example-5000-b-2"]
    assert names[-3:] == ["redis", "redis-2", "redis-2-2"]
    assert len(set(names)) == len(names)
    assert all(len(name) <= 63 for name in names)


def test_an_import_of_too_many_images_or_schedules_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drafts, "MOST_IMAGES", 3)
    with pytest.raises(DocumentMalformed, match="line 1, column 35: the text has more than 3 images and selections"):
        read_import("skopeo", "a.example: {images: {b: [c, d, e, f]}}")
    monkeypatch.setattr(drafts, "MOST_SCHEDULES", 1)
    with pytest.raises(DocumentMalformed, match="the text makes more than 1 schedules"):
        read_import("skopeo", "{a.example: {images: {b: [c]}}, b.example: {images: {b: [c]}}}")


def test_a_text_of_unknown_keys_only_is_refused_before_it_fills_the_answer() -> None:
    text = "sync: []\n" + "".join(f"k{index}: 1\n" for index in range(6000))
    with pytest.raises(DocumentMalformed, match="more than 5000 keys or entries have no effect"):
        read_import("regsync", text)


def test_what_two_rules_share_is_copied_once_and_what_they_claim_both_is_refused() -> None:
    text = "a.example/x:1: b/x\na.example/x:1,2: b/x\na.example/y:2: b/x"
    found = read_import("image-syncer", text)
    assert found.schedules[0]["job"] == {
        "images": [{"source": "a.example/x:1", "target": "b/x:1"}, {"source": "a.example/x:2", "target": "b/x:2"}]
    }
    assert [one.line for one in found.refused] == [3]


def test_schedules_share_no_value() -> None:
    found = imported(FOLDER / "regsync" / "all-keys.yaml")
    values: list[int] = []

    def walk(value: Any) -> None:
        if isinstance(value, dict | list):
            values.append(id(value))
            for one in value.values() if isinstance(value, dict) else value:
                walk(one)

    walk(list(found.schedules))
    assert len(set(values)) == len(values)


SCALARS = st.sampled_from(
    [
        *(None, True, 0, 1, "", "image", "registry", "repository", "a.example/b", "a.example/b:1", "a.example"),
        *("60m", "@daily", "{{x}}", "${X}", ".*", "1 || 2", "List", "CachedImage", "ClusterImageSetMirror", "Config"),
    ]
)
WORDS: Final = """sync defaults creds source target type tags tagSets allow deny semverRange repos interval schedule
platform platforms referrers referrerFilters artifactType mediaTypes images images-by-tag-regex images-by-semver
credentials tls-verify auth username a.example/b:1 apiVersion kind artifacts destination selector regex pattern extract
limit sortBy verify provider matchOIDCIdentity charts hosts metadata name spec mirrors registry path filter imageFilter
include exclude image status matchingImages sourceImage items"""
KEYS = st.sampled_from(WORDS.split())
ANYTHING = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=5),
    max_leaves=20,
)
HEADS: Final[dict[str, dict[str, Any]]] = {
    "flux-mirror": {"apiVersion": "mirror.plugin.fluxcd.io/v1beta2", "kind": "Config"},
    "kuik": {"apiVersion": "kuik.enix.io/v1alpha1", "kind": "ClusterImageSetMirror"},
}


@pytest.mark.parametrize("kind", IMPORT_FORMATS)
@given(value=st.dictionaries(KEYS, ANYTHING, max_size=6))
@settings(max_examples=60)
def test_any_document_is_imported_or_refused(kind: ImportFormat, value: dict[str, Any]) -> None:
    document = {**value, **HEADS.get(kind, {})} if value.get("kind") is None else value
    try:
        found = read_import(kind, json.dumps(document))
    except DocumentMalformed:
        return
    for schedule in found.schedules:
        ScheduleRequestSchema().load(schedule)
