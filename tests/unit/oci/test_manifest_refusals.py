"""Manifests that are damaged, of an unknown type, or made so that two readers see two different images."""

from __future__ import annotations

from typing import Any

import pytest

from mirror.errors import ManifestInvalid, MediaTypeUnsupported, SizeInvalid
from mirror.oci import media_types
from mirror.oci.descriptor import MAX_SIZE
from mirror.oci.manifest import MAX_ENTRIES, MAX_MANIFEST_SIZE, parse_manifest
from tests.unit.oci.manifests import (
    OCI_CONFIG,
    OCI_LAYER,
    Document,
    body,
    docker_list,
    docker_manifest,
    entry,
    oci_index,
    oci_manifest,
    without,
)

SIGNED = "application/vnd.docker.distribution.manifest.v1+prettyjws"
UNSIGNED = "application/vnd.docker.distribution.manifest.v1+json"
SCHEMA_1: Document = {"schemaVersion": 1, "name": "x", "fsLayers": [], "history": [], "signatures": []}
GOOD = body(oci_manifest())


def reason_for(content: bytes, content_type: str | None = None) -> str:
    with pytest.raises(ManifestInvalid) as refused:
        parse_manifest(content, content_type, what="x.com/a:1")
    assert refused.value.message.startswith("The manifest x.com/a:1 is invalid: ")
    return refused.value.message


def with_layer(**fields: Any) -> bytes:
    return body(oci_manifest(layers=[{**entry(OCI_LAYER), **fields}]))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (GOOD + b"{}", "not JSON"),
        (GOOD.decode().encode("utf-16"), "not JSON"),
        (b"\xef\xbb\xbf" + GOOD, "not JSON"),
        (GOOD.replace(b"schema", b"sch\xffma"), "not JSON"),
        (GOOD.replace(b'"size": 7', b'"size": NaN', 1), "not JSON"),
        (GOOD.replace(b'"size": 7', b'"size": Infinity', 1), "not JSON"),
        (GOOD.replace(b'"size": 7', b'"size": ' + b"9" * 5_000, 1), "not JSON"),
        (b"[" * 200_000, "nested too deeply"),
        (b'{"a":' * 200_000, "nested too deeply"),
        (b"[]", "not a JSON object"),
        (b"[" + GOOD + b"]", "not a JSON object"),
        (b"null", "not a JSON object"),
        (b'"manifest"', "not a JSON object"),
    ],
)
def test_only_a_json_object_is_a_manifest(content: bytes, reason: str) -> None:
    assert reason in reason_for(content)


@pytest.mark.parametrize(
    "content",
    [
        GOOD.replace(b'"layers"', b'"layers": [], "layers"'),
        GOOD.replace(b'"layers"', b'"l\\u0061yers": [], "layers"'),
        GOOD.replace(b'"size": 7', b'"size": 7, "size": 8', 1),
        GOOD.replace(b'"size": 7', b'"size": 7, "annotations": {"a": "1", "a": "2"}', 1),
    ],
)
def test_a_duplicate_field_is_refused_at_any_depth(content: bytes) -> None:
    assert "it has a field twice" in reason_for(content)


@pytest.mark.parametrize(
    ("document", "field"),
    [
        (oci_manifest(Layers=[]), "layers"),
        (oci_manifest() | {"layer\u017f": []}, "layers"),  # Go folds the long s to s
        (oci_manifest(MANIFESTS=[]), "manifests"),
        (oci_manifest(MediaType=media_types.OCI_INDEX), "mediaType"),
        (oci_manifest(FSLayers=[]), "fsLayers"),
        (oci_manifest(schemaversion=1), "schemaVersion"),
        (oci_manifest(Subject=entry(OCI_LAYER)), "subject"),
        (oci_manifest(layers=[entry(OCI_LAYER, Digest="sha256:" + "0" * 64)]), "digest"),
        (oci_manifest(config=entry(OCI_CONFIG, Size=8)), "size"),
        (oci_manifest(layers=[entry(OCI_LAYER) | {"\u017fize": 8}]), "size"),
        (oci_index(manifests=[entry(media_types.OCI_MANIFEST, mediatype="x/y")]), "mediaType"),
        (oci_index(manifests=[entry(media_types.OCI_MANIFEST, platform={"os": "linux", "OS": "windows"})]), "os"),
    ],
)
def test_a_field_in_another_spelling_is_refused_because_go_reads_it_as_the_field(
    document: Document, field: str
) -> None:
    assert f"spells the field '{field}' in another way" in reason_for(body(document))


@pytest.mark.parametrize(
    "document",
    [
        oci_manifest(manifests=[]),
        oci_manifest(manifests=None),
        oci_index(layers=[]),
        oci_index(layers=None),
        oci_index(config=entry(OCI_CONFIG)),
        without(oci_manifest(manifests=[]), "mediaType"),
        docker_manifest(manifests=[]),
    ],
)
def test_a_document_that_is_both_a_manifest_and_an_index_is_refused(document: Document) -> None:
    """CVE-2021-41190."""
    assert "both 'manifests' and 'layers' or 'config'" in reason_for(body(document))


@pytest.mark.parametrize(
    ("document", "content_type"),
    [
        (oci_manifest(), media_types.OCI_INDEX),
        (oci_manifest(), media_types.DOCKER_MANIFEST),
        (docker_manifest(), media_types.OCI_MANIFEST),
        (oci_index(), media_types.OCI_MANIFEST),
        (docker_list(), media_types.OCI_INDEX),
    ],
)
def test_a_body_that_says_another_type_than_it_was_served_as_is_refused(document: Document, content_type: str) -> None:
    """CVE-2021-41190."""
    assert "and is served as" in reason_for(body(document), content_type)


@pytest.mark.parametrize(
    ("document", "content_type", "reason"),
    [
        (without(oci_manifest(), "mediaType"), media_types.OCI_INDEX, "has no 'manifests'"),
        (without(oci_index(), "mediaType"), media_types.OCI_MANIFEST, "has the field 'manifests'"),
        (without(docker_manifest(), "mediaType"), media_types.DOCKER_MANIFEST, "must state its mediaType"),
        (without(docker_list(), "mediaType"), media_types.DOCKER_LIST, "must state its mediaType"),
        (oci_index() | {"mediaType": media_types.OCI_MANIFEST}, None, "has the field 'manifests'"),
        (without(oci_index(), "manifests"), None, "has no 'manifests'"),
        ({"schemaVersion": 2}, None, "has no config"),
        ({}, None, "schemaVersion"),
        (without(oci_manifest(), "config"), None, "has no config"),
        (oci_manifest(config=None), None, "has no config"),
        (oci_manifest(config={}), None, "config has no usable mediaType"),
        (oci_manifest(config=[]), None, "config is not a descriptor"),
        (oci_manifest(subject="x"), None, "subject is not a descriptor"),
        (oci_manifest(layers={}), None, "'layers' is not a list"),
        (oci_manifest(layers=["x"]), None, "layers[0] is not a descriptor"),
        (oci_manifest(layers=[entry(OCI_LAYER), None]), None, "layers[1] is not a descriptor"),
        (oci_index(manifests="x"), None, "'manifests' is not a list"),
        (oci_manifest(mediaType=2), None, "'mediaType' is not a short text"),
        (oci_manifest(mediaType="x" * 256), None, "'mediaType' is not a short text"),
        (oci_manifest(artifactType=["x"]), None, "'artifactType' is not a short text"),
        (oci_manifest(artifactType="a\nb"), None, "'artifactType' is not a short text"),
        (
            oci_index(manifests=[entry(media_types.OCI_MANIFEST, platform="linux")]),
            None,
            "platform that is not an object",
        ),
        (oci_index(manifests=[entry(media_types.OCI_MANIFEST, platform={"os": 1})]), None, "'os' is not a short text"),
    ],
)
def test_a_document_without_what_its_type_needs_is_refused(
    document: Document, content_type: str | None, reason: str
) -> None:
    assert reason in reason_for(body(document), content_type)


@pytest.mark.parametrize("version", [0, 3, -2, "2", 2.0, None, True, [2]])
def test_the_schema_version_is_the_number_2(version: object) -> None:
    """A stock registry returns an error for any other number (registry/storage/manifeststore.go)."""
    assert "schemaVersion is not 2" in reason_for(body(oci_manifest(schemaVersion=version)))


@pytest.mark.parametrize("size", [True, False, 7.0, 1e3, "7", "", "1e9", None, [7], {}])
def test_a_size_that_is_not_a_whole_number_is_refused(size: object) -> None:
    assert "layers[0] has no usable size" in reason_for(with_layer(size=size))


@pytest.mark.parametrize("size", [-1, -(2**63), MAX_SIZE + 1, 2**53 + 1, 2**63 - 1, 2**63, 2**64, 10**30, 1e300, -0.5])
@pytest.mark.parametrize("field", ["config", "layers", "manifests", "subject"])
def test_a_size_that_no_blob_can_have_is_refused_with_the_digest_the_size_and_the_bound(
    size: float, field: str
) -> None:
    odd = entry(media_types.OCI_MANIFEST if field == "manifests" else OCI_LAYER) | {"size": size}
    document = {"manifests": oci_index(manifests=[odd]), "layers": oci_manifest(layers=[odd])}
    with pytest.raises(SizeInvalid) as refused:
        parse_manifest(body(document.get(field, oci_manifest(**{field: odd}))), None, what="x.com/a:1")
    assert refused.value.message == (
        f"The blob {odd['digest']} of x.com/a:1 should have 0 to {MAX_SIZE} bytes and has {size}"
    )


def test_a_size_of_thousands_of_digits_is_refused_with_a_short_message() -> None:
    with pytest.raises(SizeInvalid) as refused:
        parse_manifest(with_layer(size=10**4000), None, what="x.com/a:1")
    assert len(refused.value.message) < 300


@pytest.mark.parametrize("media_type", ["", None, 7, "x" * 256, "a/b\n", "a/\x7f", "a/é", "a/\ud800"])
def test_a_media_type_that_is_not_short_printable_text_is_refused(media_type: object) -> None:
    assert "layers[0] has no usable mediaType" in reason_for(with_layer(mediaType=media_type))


@pytest.mark.parametrize(
    "digest", [None, 7, "", "sha256:12", "md5:" + "0" * 32, "sha256:" + "../" * 21 + "a", "SHA256:" + "0" * 64]
)
def test_an_invalid_digest_is_refused(digest: object) -> None:
    assert "layers[0] has " in reason_for(with_layer(digest=digest))


def test_a_missing_field_of_a_descriptor_is_refused() -> None:
    for field in ("mediaType", "size", "digest"):
        assert "layers[0] has no" in reason_for(body(oci_manifest(layers=[without(entry(OCI_LAYER), field)])))


def test_more_than_10_000_layers_are_refused() -> None:
    assert "10001 entries" in reason_for(body(oci_manifest(layers=[entry(OCI_LAYER)] * (MAX_ENTRIES + 1))))


def test_more_than_4_mib_are_refused_before_they_are_read() -> None:
    assert "more than 4194304" in reason_for(b"[" * (MAX_MANIFEST_SIZE + 1))


@pytest.mark.parametrize(
    ("document", "content_type", "named"),
    [
        (SCHEMA_1, SIGNED, SIGNED),
        (SCHEMA_1, UNSIGNED, UNSIGNED),
        (SCHEMA_1, None, UNSIGNED),
        (SCHEMA_1, media_types.OCI_MANIFEST, UNSIGNED),
        (oci_manifest(fsLayers=[]), None, UNSIGNED),
        (oci_manifest(), "text/html", "text/html"),
        (oci_manifest(), "application/json", "application/json"),
        (oci_manifest(mediaType="application/vnd.oci.artifact.manifest.v1+json"), None, "artifact.manifest"),
        (oci_manifest(mediaType=media_types.OCI_MANIFEST.upper()), None, "VND.OCI"),
    ],
)
def test_a_type_that_a_stock_registry_could_not_serve_is_refused_by_name(
    document: Document, content_type: str | None, named: str
) -> None:
    with pytest.raises(MediaTypeUnsupported) as refused:
        parse_manifest(body(document), content_type, what="x.com/a:1")
    assert named in refused.value.message
    assert "x.com/a:1" in refused.value.message
