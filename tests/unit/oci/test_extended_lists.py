"""Lists of referrers that are extended, and entries that are completed from their manifests."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirror.oci import media_types
from mirror.oci.descriptor import Descriptor
from mirror.oci.digest import Digest
from mirror.oci.image import ManifestContent
from mirror.oci.manifest import parse_manifest
from mirror.oci.referrer import EMPTY_TYPE, Referrer, completed, described, extend_list, read_list, write_list
from tests.support import images
from tests.support.images import TestImage

KIND = "application/vnd.example.signature"


def referrer(name: str, **fields: Any) -> Referrer:
    return Referrer(Descriptor(media_types.OCI_MANIFEST, Digest.of(name.encode()), len(name)), KIND, **fields)


def content(image: TestImage) -> ManifestContent:
    parsed = parse_manifest(image.body, None, what="it")
    return ManifestContent(Descriptor(parsed.media_type, image.digest, len(image.body)), image.body, parsed)


@given(st.lists(st.integers(0, 9)), st.lists(st.integers(0, 9)))
def test_an_extended_list_has_the_old_entries_and_then_the_new_ones(old: list[int], new: list[int]) -> None:
    first = write_list(referrer(str(number)) for number in old)
    body = extend_list(first, [referrer(str(number)) for number in new])
    assert read_list(body, what="it") == (*read_list(first, what="it"), *(referrer(str(number)) for number in new))


def test_all_else_in_an_extended_list_stays() -> None:
    document: dict[str, Any] = {
        "schemaVersion": 2,
        "manifests": None,
        "annotations": {"a": "ü"},
        "subject": referrer("subject").entry(),
    }
    extended = json.loads(extend_list(json.dumps(document).encode(), [referrer("one")]))
    assert extended == {**document, "manifests": [referrer("one").entry()]}


@pytest.mark.parametrize("stated", ["", EMPTY_TYPE])
def test_an_entry_without_its_type_is_completed_from_its_manifest(stated: str) -> None:
    artifact = images.artifact(KIND, b"signed")
    listed = Referrer(Descriptor("", artifact.digest, 1), stated)
    assert completed(listed, content(artifact)).entry() == {**artifact.descriptor, "artifactType": KIND}
    image = images.image(images.layer("chart"))
    listed = Referrer(Descriptor("", image.digest, 1), stated, {"a": "b"})
    expected = {**image.descriptor, "artifactType": images.OCI_CONFIG, "annotations": {"a": "b"}}
    assert completed(listed, content(image)).entry() == expected


def test_an_entry_with_a_type_keeps_it() -> None:
    artifact = images.artifact("other/type", b"signed")
    listed = Referrer(Descriptor(artifact.media_type, artifact.digest, len(artifact.body)), KIND)
    assert completed(listed, content(artifact)) == listed


@pytest.mark.parametrize(("length", "is_copied"), [(60_000, True), (70_000, False)])
def test_annotations_that_would_fill_a_list_are_not_copied(length: int, is_copied: bool) -> None:
    artifact = images.artifact(KIND, b"signed")
    document = {**json.loads(artifact.body), "annotations": {"a": "b" * length}}
    found = described(content(TestImage(json.dumps(document).encode(), artifact.media_type)))
    assert (found.artifact_type, bool(found.annotations)) == (KIND, is_copied)
