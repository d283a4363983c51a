"""Referrers: their tags, and the lists that name them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirror.errors import ManifestInvalid, MirrorError, SizeInvalid
from mirror.oci.digest import Digest
from mirror.oci.media_types import DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST
from mirror.oci.reference import is_tag
from mirror.oci.referrer import (
    EMPTY_TYPE,
    REFERRER_TAG,
    cosign_tags,
    fallback_tag,
    read_entries,
    read_list,
    shorten_list,
    write_list,
)

SUBJECT = Digest.of(b"an image")
BUNDLE = "application/vnd.dev.sigstore.bundle.v0.3+json"


def entry(content: str = "a signature", **fields: Any) -> dict[str, Any]:
    return {"mediaType": OCI_MANIFEST, "digest": str(Digest.of(content.encode())), "size": len(content), **fields}


def test_an_entry_keeps_its_type_and_those_annotations_that_are_texts() -> None:
    annotations = {"org.example.kind": "a", "number": 1, "none": None, "list": ["a"]}
    (found,) = read_entries([entry(artifactType=BUNDLE, annotations=annotations)], what="list")
    assert (found.digest, found.artifact_type) == (Digest.of(b"a signature"), BUNDLE)
    assert (dict(found.annotations), found.is_typed) == ({"org.example.kind": "a"}, True)


@pytest.mark.parametrize("stated", [None, "", 7, "x" * 256, "ü", EMPTY_TYPE])
def test_a_list_may_not_tell_the_type(stated: object) -> None:
    (found,) = read_entries([entry(artifactType=stated)], what="list")
    assert not found.is_typed


@pytest.mark.parametrize(
    ("malformed", "reason"),
    [
        ("sha256:0", "not a descriptor"),
        (None, "not a descriptor"),
        ({}, "no digest"),
        (entry(digest=None), "no digest"),
        (entry(digest="sha256:short"), "malformed or unsupported digest"),
        (entry(digest="md5:" + "0" * 32), "malformed or unsupported digest"),
        (entry(size="12"), "no usable size"),
        (entry(size=1.5), "no usable size"),
        (entry(mediaType=7), "no usable mediaType"),
        (entry(mediaType="a\nb"), "no usable mediaType"),
        (entry(Digest="sha256:0"), "another way"),
    ],
)
def test_an_entry_that_is_no_descriptor_fails_the_whole_list(malformed: object, reason: str) -> None:
    with pytest.raises(ManifestInvalid, match=reason) as caught:
        read_entries([entry(), malformed], what="list of referrers")
    assert "list of referrers" in caught.value.message


def test_a_size_out_of_bounds_fails_the_list() -> None:
    with pytest.raises(SizeInvalid):
        read_entries([entry(size=-1)], what="list")


ENTRIES = st.lists(
    st.builds(
        entry,
        st.text(max_size=3),
        mediaType=st.sampled_from([OCI_MANIFEST, OCI_INDEX, DOCKER_MANIFEST]),
        artifactType=st.sampled_from(["", BUNDLE, EMPTY_TYPE]),
        annotations=st.dictionaries(st.text(max_size=3), st.text(max_size=3), max_size=2),
    ),
    max_size=5,
    unique_by=lambda one: one["digest"],
)


@given(ENTRIES)
def test_entries_of_the_api_and_of_a_fallback_tag_are_read_alike(entries: list[dict[str, Any]]) -> None:
    body = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}).encode()
    found = read_entries(entries, what="list")
    assert read_list(body, what="list") == found
    assert read_list(write_list(found), what="list") == found


def test_a_list_is_written_with_each_digest_once_in_order() -> None:
    first, second, again = read_entries([entry("a", artifactType=BUNDLE), entry("b"), entry("a")], what="list")
    assert read_list(write_list([first, second, again]), what="list") == (first, second)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*entry(), "artifactType"]), inner),
    max_leaves=10,
)


def test_a_list_without_some_entries_keeps_all_else_as_it_was() -> None:
    kept, gone = entry("kept", anything=1), entry("gone")
    document = {"schemaVersion": 2, "mediaType": OCI_INDEX, "annotations": {"a": "b"}, "manifests": [gone, kept]}
    shorter = json.loads(shorten_list(json.dumps(document).encode(), [Digest.parse(gone["digest"]), SUBJECT]))
    assert shorter == {**document, "manifests": [kept]}
    assert read_list(shorten_list(json.dumps(shorter).encode(), [Digest.parse(kept["digest"])]), what="a list") == ()


@given(st.lists(JSON, max_size=4))
def test_any_entries_are_read_or_refused(entries: list[Any]) -> None:
    try:
        found = read_entries(entries, what="list")
    except MirrorError:
        return
    assert len(found) == len(entries)


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_tags_of_referrers_are_known_by_their_form(algorithm: str) -> None:
    subject = Digest.of(b"an image", algorithm)
    tags = [fallback_tag(subject), *cosign_tags(subject), f"{fallback_tag(subject)}.0123456789abcdef.sbom"]
    assert all(REFERRER_TAG.fullmatch(tag) and is_tag(tag) for tag in tags)
    assert fallback_tag(subject) == f"{algorithm}-{subject.hex[:64]}"
    assert len(cosign_tags(subject)) == (3 if algorithm == "sha256" else 0)


@pytest.mark.parametrize("tag", ["latest", "sha256", "sha256-abc", f"v-sha256-{SUBJECT.hex}", f"sha1-{SUBJECT.hex}"])
def test_other_tags_are_no_tags_of_referrers(tag: str) -> None:
    assert not REFERRER_TAG.fullmatch(tag)
