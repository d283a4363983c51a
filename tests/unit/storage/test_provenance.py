"""The record of where an image came from: what is written is read again, also by and from other releases."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from mirror.oci.digest import Digest
from mirror.storage.provenance import ImageProvenance, ImageSummary, chosen_platforms, platforms_mode

INDEX, AMD64, ARM64 = (Digest.of(name) for name in (b"index", b"amd64", b"arm64"))
WHOLE = ImageProvenance(
    "docker.io/library/redis:7",
    INDEX,
    "2026-11-23T21:25:00Z",
    "job",
    (AMD64,),
    ImageSummary("type", ("linux/amd64", "linux/arm64"), {INDEX: 1, AMD64: 2, ARM64: 3}),
)


def sparse(*names: str) -> ImageProvenance:
    digests = {"linux/amd64": AMD64, "linux/arm64": ARM64}
    sizes = {digest: number for number, digest in enumerate((INDEX, AMD64, ARM64), 1)}
    kept = {INDEX, *(digests[name] for name in names)}
    summary = ImageSummary("type", names, {digest: size for digest, size in sizes.items() if digest in kept})
    return replace(WHOLE, summary=summary, platforms=f"sparse:{','.join(names)}")


@pytest.mark.parametrize(
    "record",
    [
        WHOLE,
        sparse("linux/amd64"),
        replace(WHOLE, platforms="single:linux/amd64"),
        replace(WHOLE, foreign_layers="when-held"),
    ],
)
def test_a_record_is_read_as_it_was_written(record: ImageProvenance) -> None:
    assert ImageProvenance.from_json(record.to_json()) == record


def test_a_record_of_the_release_before_has_no_rules() -> None:
    fields = json.loads(WHOLE.to_json())
    assert "platforms" not in fields
    record = ImageProvenance.from_json(json.dumps(fields).encode())
    assert record == WHOLE
    assert platforms_mode(record.platforms) == "all"


@pytest.mark.parametrize("damaged", [7, ["sparse"], {}])
def test_a_damaged_record_is_none(damaged: object) -> None:
    fields = json.loads(WHOLE.to_json()) | {"platforms": damaged}
    assert ImageProvenance.from_json(json.dumps(fields).encode()) is None


@pytest.mark.parametrize("unknown", [7, ["all"], {}, "of a later release"])
def test_an_unknown_word_for_foreign_layers_is_none(unknown: object) -> None:
    fields = json.loads(WHOLE.to_json()) | {"foreign_layers": unknown}
    assert ImageProvenance.from_json(json.dumps(fields).encode()) == WHOLE


@pytest.mark.parametrize(
    ("new", "before", "joined"),
    [
        (("all", "linux/amd64"), ("all", "linux/arm64"), "all"),
        (("all", "linux/amd64"), ("when-held", "linux/arm64"), "when-held"),
        (("all", "linux/amd64"), (None, "linux/arm64"), None),
        (("when-held", "linux/amd64"), ("leave-out", "linux/arm64"), "leave-out"),
        (("leave-out", "linux/amd64"), ("all", "linux/arm64"), "leave-out"),
        (("all", "linux/amd64"), ("leave-out", "linux/amd64"), "all"),
        (("all", "linux/amd64"), ("when-held", None), "when-held"),
    ],
)
def test_a_joined_record_has_the_foreign_layers_that_all_its_children_have(
    new: tuple[str | None, str], before: tuple[str | None, str | None], joined: str | None
) -> None:
    """Children that were chosen again have what was copied now. Others have what they had."""
    record = replace(sparse(new[1]), foreign_layers=new[0])
    base = sparse(before[1]) if before[1] else WHOLE
    assert record.joined(replace(base, foreign_layers=before[0])).foreign_layers == joined


def test_the_rules_of_a_record_are_taken_apart() -> None:
    rules = "rewrite:linux/arm64,windows/amd64:10.0.*"
    assert (platforms_mode(rules), chosen_platforms(rules)) == (
        "rewrite",
        frozenset({"linux/arm64", "windows/amd64:10.0.*"}),
    )
    assert (platforms_mode(None), chosen_platforms(None)) == ("all", frozenset())


def test_two_sparse_images_of_one_index_are_both_held() -> None:
    joined = sparse("linux/amd64").joined(sparse("linux/arm64"))
    assert joined.platforms == "sparse:linux/amd64,linux/arm64"
    assert joined.summary == WHOLE.summary


def test_an_index_that_is_held_whole_stays_whole() -> None:
    joined = sparse("linux/amd64").joined(WHOLE)
    assert (joined.platforms, joined.summary) == (None, WHOLE.summary)


@pytest.mark.parametrize(
    "before",
    [None, replace(WHOLE, summary=None), replace(WHOLE, digest=AMD64), replace(WHOLE, platforms="rewrite:linux/arm64")],
    ids=["no record", "a record without a summary", "of another image", "of a rewritten index"],
)
def test_other_records_change_nothing(before: ImageProvenance | None) -> None:
    assert sparse("linux/amd64").joined(before) == sparse("linux/amd64")
