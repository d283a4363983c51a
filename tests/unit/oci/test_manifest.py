"""How the manifests and indexes that real tools write are parsed."""

from __future__ import annotations

import pytest

from mirror.oci import media_types
from mirror.oci.descriptor import MAX_SIZE
from mirror.oci.digest import Digest
from mirror.oci.manifest import MAX_ENTRIES, MAX_MANIFEST_SIZE, Index, Manifest, parse_manifest
from mirror.oci.platform import Platform
from tests.unit.oci.manifests import (
    CACHE_CONFIG,
    DOCKER_FOREIGN,
    EMPTY,
    OCI_FOREIGN,
    OCI_LAYER,
    ZSTD_LAYER,
    Document,
    body,
    docker_list,
    docker_manifest,
    entry,
    oci_index,
    oci_manifest,
    without,
)


def manifest(document: Document, content_type: str | None = None) -> Manifest:
    parsed = parse_manifest(body(document), content_type, what="test")
    assert isinstance(parsed, Manifest)
    return parsed


def index(document: Document, content_type: str | None = None) -> Index:
    parsed = parse_manifest(body(document), content_type, what="test")
    assert isinstance(parsed, Index)
    return parsed


@pytest.mark.parametrize("document", [oci_manifest(), docker_manifest(), oci_index(), docker_list()])
@pytest.mark.parametrize("served", [True, False])
def test_a_document_that_states_its_type_is_of_that_type_with_and_without_a_content_type(
    document: Document, served: bool
) -> None:
    stated = document["mediaType"]
    assert parse_manifest(body(document), stated if served else None, what="test").media_type == stated


@pytest.mark.parametrize("content_type", [media_types.OCI_MANIFEST, None, ""])
def test_an_oci_manifest_needs_no_media_type_in_its_body(content_type: str | None) -> None:
    assert manifest(without(oci_manifest(), "mediaType"), content_type).media_type == media_types.OCI_MANIFEST


@pytest.mark.parametrize("content_type", [media_types.OCI_INDEX, None, ""])
def test_an_oci_index_needs_no_media_type_in_its_body(content_type: str | None) -> None:
    assert index(without(oci_index(), "mediaType"), content_type).media_type == media_types.OCI_INDEX


def test_a_manifest_has_its_config_and_its_layers_in_order() -> None:
    parsed = manifest(oci_manifest())
    assert [d.digest for d in parsed.blobs] == [Digest.of(name) for name in (b"config", b"one", b"two")]
    assert [d.media_type for d in parsed.layers] == [OCI_LAYER, ZSTD_LAYER]
    assert {d.size for d in parsed.blobs} == {7}
    assert (parsed.subject, parsed.artifact_type) == (None, "")


@pytest.mark.parametrize(
    "document", [oci_manifest(layers=[]), oci_manifest(layers=None), without(oci_manifest(), "layers")]
)
@pytest.mark.parametrize("stated", [True, False])
def test_no_layers_may_be_written_as_an_empty_list_as_null_or_not_at_all(document: Document, stated: bool) -> None:
    """Go programs write null for a list that they never filled. Artifacts without layers have no such field."""
    parsed = manifest(document if stated else without(document, "mediaType"))
    assert parsed.layers == ()
    assert len(parsed.blobs) == 1


def test_an_artifact_has_a_type_a_subject_and_an_empty_config() -> None:
    subject = entry(media_types.OCI_MANIFEST, "signed image")
    document = oci_manifest(
        artifactType="application/vnd.example.sbom.v1",
        config=entry(EMPTY, "{}", 2, data="e30="),
        subject=subject,
        layers=[entry("text/plain; charset=utf-8", annotations={"Digest": "not a field", "digest": "nor this"})],
        annotations={"org.opencontainers.image.title": "☃", "Layers": "x", "layers": "y"},
        unknownField={"Size": None},
    )
    parsed = manifest(document)
    assert parsed.artifact_type == "application/vnd.example.sbom.v1"
    assert parsed.subject is not None
    assert str(parsed.subject) == subject["digest"]


def test_optional_fields_may_be_null() -> None:
    parsed = manifest(oci_manifest(mediaType=None, subject=None, artifactType=None, annotations=None))
    assert (parsed.media_type, parsed.subject, parsed.artifact_type) == (media_types.OCI_MANIFEST, None, "")
    listed = entry(media_types.OCI_MANIFEST, platform=None)
    assert index(oci_index(manifests=[listed])).manifests[0].platform is None


def test_an_index_names_the_platforms_of_its_children() -> None:
    assert [d.platform for d in index(oci_index()).children] == [
        Platform("linux", "amd64"),
        Platform("linux", "arm64", "v8"),
        Platform("unknown", "unknown"),
    ]
    windows = index(docker_list()).children[1].platform
    assert windows == Platform("windows", "amd64", "", "10.0.20348.1")


def test_an_index_may_hold_indexes_and_manifests_of_both_families() -> None:
    kinds = (*media_types.INDEXES, *media_types.MANIFESTS)
    parsed = index(oci_index(manifests=[entry(kind, kind) for kind in kinds]))
    assert [d.media_type for d in parsed.children] == list(kinds)
    assert parsed.blobs == ()


@pytest.mark.parametrize("stated", [True, False])
def test_an_index_may_be_empty(stated: bool) -> None:
    document = oci_index(manifests=[])
    assert index(document if stated else without(document, "mediaType")).manifests == ()


def test_an_index_may_have_a_subject() -> None:
    assert index(oci_index(subject=entry(media_types.OCI_INDEX, "signed"))).subject is not None


def test_a_build_cache_lists_blobs_among_its_manifests() -> None:
    """BuildKit's ``--cache-to type=registry`` without ``image-manifest=true``."""
    parsed = index(oci_index(manifests=[entry(OCI_LAYER, "layer"), entry(CACHE_CONFIG, "config")]))
    assert parsed.children == ()
    assert [d.media_type for d in parsed.blobs] == [OCI_LAYER, CACHE_CONFIG]


@pytest.mark.parametrize("media_type", [DOCKER_FOREIGN, OCI_FOREIGN])
def test_a_layer_is_foreign_by_its_type(media_type: str) -> None:
    assert manifest(oci_manifest(layers=[entry(media_type, urls=["https://example.com/x"])])).layers[0].is_foreign_layer


def test_a_layer_is_not_foreign_for_having_urls() -> None:
    assert (
        not manifest(oci_manifest(layers=[entry(OCI_LAYER, urls=["https://example.com/x"])])).layers[0].is_foreign_layer
    )


URL = "https://example.com/x"


@pytest.mark.parametrize(
    ("urls", "kept"),
    [
        ([URL, "http://example.com:8080/x?y=1"], (URL, "http://example.com:8080/x?y=1")),
        (["https://[2001:db8::1]:443/x"], ("https://[2001:db8::1]:443/x",)),
        ([URL, URL], (URL,)),
        ([f"{URL}{number}" for number in range(100)], tuple(f"{URL}{number}" for number in range(8))),
        (["https://" + "a" * 2048, URL], (URL,)),
        (["ftp://example.com/x", "file:///etc/passwd", "//example.com/x", "HTTPS:/x", ""], ()),
        (["https://user@example.com/x", "https://user:pass@example.com/x", "https://@example.com/x"], ()),
        (["https://example.com\\@other.example/x", "https://example.com /x", "https://\u0435xample.com/x"], ()),
        (
            ["https:///x", "https://example.com:0/x", "https://example.com:99999/x", "https://[::1/x", "https://x\n/"],
            (),
        ),
        ([None, 7, {}, [URL], URL], (URL,)),
        (URL, ()),
        (None, ()),
        ({"0": URL}, ()),
    ],
)
def test_usable_urls_of_a_foreign_layer_are_kept_and_others_ignored(urls: object, kept: tuple[str, ...]) -> None:
    foreign, ordinary = manifest(
        oci_manifest(layers=[entry(OCI_FOREIGN, urls=urls), entry(OCI_LAYER, urls=urls)])
    ).layers
    assert (foreign.urls, ordinary.urls) == (kept, ())


def test_sha512_digests_are_accepted() -> None:
    assert manifest(oci_manifest(layers=[entry(OCI_LAYER, algorithm="sha512")])).layers[0].digest.algorithm == "sha512"


@pytest.mark.parametrize("size", [0, 1, MAX_SIZE])
def test_a_size_is_a_whole_number_of_up_to_1_tib(size: int) -> None:
    assert manifest(oci_manifest(layers=[entry(OCI_LAYER, size=size)])).layers[0].size == size


def test_a_manifest_may_have_10_000_layers() -> None:
    assert len(manifest(oci_manifest(layers=[entry(OCI_LAYER)] * MAX_ENTRIES)).layers) == MAX_ENTRIES == 10_000


def test_a_manifest_may_have_4_mib() -> None:
    compact = body(oci_manifest())
    padded = compact + b" " * (MAX_MANIFEST_SIZE - len(compact))
    assert len(padded) == 4 * 1024 * 1024
    assert parse_manifest(padded, None, what="test") == parse_manifest(compact, None, what="test")


@pytest.mark.parametrize("media_type", [media_types.OCI_INDEX, media_types.DOCKER_LIST])
def test_no_children_may_be_written_as_null_where_the_body_states_an_index(media_type: str) -> None:
    assert index(oci_index(mediaType=media_type, manifests=None)).manifests == ()


@pytest.mark.parametrize("content_type", [media_types.OCI_INDEX, None])
def test_no_children_may_be_null_where_only_the_server_says_that_it_is_an_index(content_type: str | None) -> None:
    """The bucket stores no Content-Type, so what was stored must be readable without it."""
    assert index(without(oci_index(manifests=None), "mediaType"), content_type).manifests == ()


@pytest.mark.parametrize("media_type", ["application/vnd.example+json", media_types.DOCKER_SCHEMA_1_SIGNED, "", None])
def test_an_entry_of_an_index_may_have_any_type_or_none(media_type: str | None) -> None:
    other = {**entry(media_types.OCI_MANIFEST, "other"), "mediaType": media_type}
    parsed = index(oci_index(manifests=[entry(media_types.OCI_MANIFEST), other, without(other, "mediaType")]))
    assert [len(parsed.children), parsed.blobs] == [1, ()]
    assert [found.media_type for found in parsed.unknown_entries] == [media_type or "", ""]


def test_embedded_content_is_kept_unchanged() -> None:
    parsed = manifest(oci_manifest(layers=[entry(OCI_LAYER, data="YQ=="), entry(OCI_LAYER, data=7)]))
    assert [layer.data for layer in parsed.layers] == ["YQ==", None]
