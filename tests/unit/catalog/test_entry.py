"""Whether a target is already what its task asks for, decided without a server."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import cast

import pytest

from mirror.catalog.entry import ImageEntry, IndexedTag, is_current
from mirror.oci.digest import Digest
from mirror.oci.local_image import LocalImage
from mirror.oci.platform import PlatformPattern
from mirror.records.rules import FOREIGN_LAYERS, CopyOptions, PlatformMode, PlatformRules
from mirror.records.spec import CopySpec
from mirror.storage.provenance import ImageProvenance, ImageSummary

IMAGE, OTHER = Digest.of(b"an image"), Digest.of(b"another image")
SPEC = CopySpec.parse("registry.example/team/app:1", "prod/app:1")


@pytest.mark.parametrize(
    ("source", "job", "also_from"),
    [
        ("registry.example/team/app:1", "job", ()),
        ("registry.example/team/app:2", "job", ()),
        ("elsewhere.example/team/app:1", "job", ("registry.example/team/app",)),
        ("team/base:1", None, ("registry.example/team/app",)),
    ],
    ids=["its source", "another tag of its source", "one of several sources", "a retagged image that it served too"],
)
def test_a_target_with_the_digest_of_its_source_is_current(
    source: str, job: str | None, also_from: tuple[str, ...]
) -> None:
    assert is_current(SPEC, IMAGE, IndexedTag(IMAGE, source, job, also_from))


@pytest.mark.parametrize(
    "held",
    [
        None,
        IndexedTag(OTHER, "registry.example/team/app:1", "job"),
        IndexedTag(IMAGE, "registry.example/team/other:1", "job"),
        IndexedTag(IMAGE, "elsewhere.example/team/app:1", "job"),
        IndexedTag(IMAGE, "registry.example/team/app:1", None),
        IndexedTag(IMAGE, None, None),
    ],
    ids=["nothing held", "another digest", "another repository", "another registry", "retagged", "unknown source"],
)
def test_a_target_is_not_current_without_the_digest_from_its_source(held: IndexedTag | None) -> None:
    assert not is_current(SPEC, IMAGE, held)


def asking(rules: str) -> CopySpec:
    """Return the spec with rules for platforms, written as their key."""
    mode, _, only = rules.partition(":")
    patterns = tuple(map(PlatformPattern.parse, only.split(","))) if only else ()
    return replace(SPEC, options=CopyOptions(PlatformRules(patterns, cast("PlatformMode", mode))))


def held_by(rules: str | None, platforms: str = "linux/amd64,linux/arm64") -> IndexedTag:
    """Return a tag that was mirrored by *rules*. By ``rewrite`` and ``single`` it shows another digest."""
    shows_another = rules is not None and rules.startswith(("rewrite", "single"))
    names = tuple(filter(None, platforms.split(",")))
    shown, source_digest = (OTHER, IMAGE) if shows_another else (IMAGE, None)
    return IndexedTag(shown, "registry.example/team/app:1", "job", (), source_digest, rules, names)


RULES = [
    # what is held, what is asked for, whether it is current
    (None, "all", True),
    (None, "all:linux/arm64", True),
    (None, "all:linux/s390x", False),
    (None, "sparse:linux/arm64/v8", True),
    (None, "sparse:linux/s390x", False),
    (None, "rewrite:linux/amd64", False),
    (None, "single:linux/amd64", False),
    ("all:linux/amd64", "all", True),
    ("all:linux/amd64", "sparse:linux/arm64", True),
    ("sparse:linux/amd64,linux/arm64", "all", False),
    ("sparse:linux/amd64,linux/arm64", "all:linux/amd64", False),
    ("sparse:linux/amd64,linux/arm64", "sparse:linux/arm64,linux/amd64", True),
    ("sparse:linux/amd64,linux/arm64", "sparse:linux/arm64", True),
    ("sparse:linux/amd64,linux/arm64", "sparse:linux/amd64,linux/arm64,linux/arm", False),
    ("sparse:linux/amd64,linux/arm64", "rewrite:linux/amd64,linux/arm64", False),
    ("rewrite:linux/amd64,linux/arm64", "rewrite:linux/arm64,linux/amd64", True),
    ("rewrite:linux/amd64,linux/arm64", "rewrite:linux/amd64", False),
    ("rewrite:linux/amd64,linux/arm64", "all", False),
    ("rewrite:linux/amd64,linux/arm64", "sparse:linux/amd64", False),
    ("single:linux/amd64", "single:linux/amd64", True),
    ("single:linux/amd64", "single:linux/arm64", False),
    ("single:linux/amd64", "all", False),
]


@pytest.mark.parametrize(("held", "asked", "current"), RULES)
def test_other_rules_for_platforms_are_noticed(held: str | None, asked: str, current: bool) -> None:
    assert is_current(asking(asked), IMAGE, held_by(held)) is current


def test_the_same_rules_are_satisfied_whatever_the_index_lists() -> None:
    """An artifact has no platforms, and an older entry lists no Windows versions."""
    for rules in ("sparse:linux/amd64", "rewrite:windows/amd64:10.0.*", "all:linux/amd64"):
        assert is_current(asking(rules), IMAGE, held_by(rules, ""))


def test_a_version_of_windows_is_compared_if_the_index_lists_it() -> None:
    wanted = asking("sparse:windows/amd64:10.0.20348.*")
    assert is_current(wanted, IMAGE, held_by(None, "windows/amd64:10.0.20348.1"))
    assert not is_current(wanted, IMAGE, held_by(None, "windows/amd64"))


FOREIGN = [
    # what the tag has, and which choices find nothing more to bring
    ("all", {"include", "when-held", "leave-out"}),
    ("when-held", {"when-held", "leave-out"}),
    ("leave-out", {"leave-out"}),
    (None, {"when-held", "leave-out"}),
]


@pytest.mark.parametrize(("held", "current"), FOREIGN)
def test_a_tag_that_lacks_foreign_layers_is_not_current_for_a_choice_that_may_bring_them(
    held: str | None, current: set[str]
) -> None:
    tag = replace(held_by(None), foreign_layers=held)
    for choice in FOREIGN_LAYERS:
        wanted = replace(SPEC, options=CopyOptions(foreign_layers=choice))
        assert is_current(wanted, IMAGE, tag) is (choice in current)


def test_what_a_rewritten_tag_shows_is_no_digest_of_its_source() -> None:
    held = held_by("rewrite:linux/amd64")
    assert held.made_from == IMAGE
    assert not is_current(asking("rewrite:linux/amd64"), OTHER, held)


def test_an_entry_of_the_release_before_is_whole() -> None:
    before = {
        "repository": "team/app",
        "tag": "1",
        "digest": str(IMAGE),
        "media_type": "application/vnd.oci.image.index.v1+json",
        "size": 7,
        "platforms": ["linux/amd64"],
        "source": "registry.example/team/app:1",
        "mirrored_at": "2026-11-23T21:25:00Z",
        "job": "job",
        "also_from": [],
    }
    text = json.dumps(before)
    entry = ImageEntry.from_json(text)
    assert (entry.source_digest, entry.platform_rules) == (None, None)
    assert IndexedTag.from_json(text) == entry.indexed == IndexedTag.from_json(entry.to_json())
    assert is_current(asking("sparse:linux/amd64"), IMAGE, entry.indexed)
    assert json.loads(entry.to_json()) == before


@pytest.mark.parametrize("rules", ["sparse:linux/amd64", "rewrite:linux/amd64", "single:linux/amd64"])
def test_an_entry_keeps_what_decides_about_its_next_job(rules: str) -> None:
    origin = ImageProvenance("registry.example/team/app:1", IMAGE, "2026-11-23T21:25:00Z", "job", platforms=rules)
    shown = IMAGE if rules.startswith("sparse") else OTHER
    entry = ImageEntry.of(LocalImage("team/app", "1"), shown, ImageSummary("type", ("linux/amd64",), {}), origin)
    read = ImageEntry.from_json(entry.to_json())
    assert read == entry
    assert IndexedTag.from_json(entry.to_json()) == entry.indexed
    assert is_current(asking(rules), IMAGE, read.indexed)
    assert not is_current(asking("all"), IMAGE, read.indexed)
