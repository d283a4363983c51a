"""An image made of parsed manifests: its blobs, sizes and platforms."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mirror.errors import SizeInvalid
from mirror.oci import media_types
from mirror.oci.descriptor import MAX_SIZE, Descriptor
from mirror.oci.digest import Digest
from mirror.oci.image import Image, LeftOut, ManifestContent, merge_by_digest
from mirror.oci.manifest import Index, parse_manifest
from mirror.oci.platform import Platform
from tests.unit.oci.manifests import DOCKER_FOREIGN, OCI_LAYER, Document, body, entry, oci_index, oci_manifest


def content(document: Document) -> ManifestContent:
    written = body(document)
    parsed = parse_manifest(written, None, what="test")
    return ManifestContent(Descriptor(parsed.media_type, Digest.of(written), len(written)), written, parsed)


def names(descriptors: tuple[Descriptor, ...]) -> list[Digest]:
    return [d.digest for d in descriptors]


ONE = content(oci_manifest())
OTHER = content(oci_manifest(layers=[entry(OCI_LAYER, "one"), entry(DOCKER_FOREIGN, "windows base")]))
ROOT = content(oci_index())
IMAGE = Image((ONE, OTHER, ROOT))
FOREIGN_DIGEST = Digest.of(b"windows base")
WITHOUT_FOREIGN = IMAGE.leaving_out(LeftOut(layer, "the source does not serve it") for layer in IMAGE.foreign_layers)


def test_the_root_is_the_last_manifest_and_gives_the_image_its_digest() -> None:
    assert IMAGE.root is ROOT
    assert IMAGE.digest == Digest.of(ROOT.body)


def test_a_blob_that_two_manifests_share_is_listed_once() -> None:
    assert names(WITHOUT_FOREIGN.blobs) == [Digest.of(b"config"), Digest.of(b"one"), Digest.of(b"two")]


def test_foreign_layers_are_listed_separately_whether_held_or_left_out() -> None:
    assert names(IMAGE.foreign_layers) == names(WITHOUT_FOREIGN.foreign_layers) == [FOREIGN_DIGEST]


def test_a_foreign_layer_is_a_blob_like_any_other_and_is_listed_after_them() -> None:
    assert names(IMAGE.blobs) == [*names(WITHOUT_FOREIGN.blobs), FOREIGN_DIGEST]
    assert IMAGE.sizes == WITHOUT_FOREIGN.sizes | {FOREIGN_DIGEST: 7}


def test_a_foreign_layer_that_is_left_out_has_no_size() -> None:
    assert WITHOUT_FOREIGN.sizes == {
        **{Digest.of(name): 7 for name in (b"config", b"one", b"two")},
        **{Digest.of(m.body): len(m.body) for m in (ONE, OTHER, ROOT)},
    }


def test_a_layer_that_is_foreign_in_one_manifest_and_ordinary_in_another_is_ordinary() -> None:
    ordinary = content(oci_manifest(layers=[entry(OCI_LAYER, "windows base")]))
    embedding = content(oci_manifest(layers=[{**entry(DOCKER_FOREIGN, "windows base"), "data": "not the content"}]))
    for order in ((OTHER, ordinary), (ordinary, OTHER), (ordinary, embedding)):
        image = Image((*order, ROOT))
        assert image.foreign_layers == ()
        [layer] = [blob for blob in image.blobs if blob.digest == FOREIGN_DIGEST]
        assert not layer.is_foreign_layer


def test_a_foreign_layer_and_an_ordinary_one_that_disagree_about_a_size_are_refused() -> None:
    ordinary = content(oci_manifest(layers=[entry(OCI_LAYER, "windows base", 8)]))
    with pytest.raises(SizeInvalid, match="should have 8 bytes and has 7"):
        _ = Image((OTHER, ordinary)).blobs


def test_the_platforms_are_the_index_s_without_attestations() -> None:
    assert IMAGE.platforms == (Platform("linux", "amd64"), Platform("linux", "arm64", "v8"))
    assert Image((ONE,)).platforms == ()


def test_the_blobs_in_the_index_of_a_build_cache_are_blobs_of_the_image() -> None:
    cache = Image((content(oci_index(manifests=[entry(OCI_LAYER, "cached")])),))
    assert names(cache.blobs) == [Digest.of(b"cached")]


def test_two_sizes_for_one_digest_are_refused() -> None:
    layers = [entry(OCI_LAYER, "one", 7), entry(OCI_LAYER, "one", 8)]
    with pytest.raises(SizeInvalid, match="should have 7 bytes and has 8"):
        _ = Image((content(oci_manifest(layers=layers)),)).blobs


def test_merging_keeps_the_first_descriptor_and_the_order() -> None:
    first = Descriptor(OCI_LAYER, Digest.of(b"a"), 1)
    second = Descriptor(media_types.OCI_MANIFEST, Digest.of(b"b"), 2)
    assert merge_by_digest([first, second, Descriptor("x/y", first.digest, 1)]) == (first, second)


def layers_of(*sizes: int) -> ManifestContent:
    return content(oci_manifest(layers=[entry(OCI_LAYER, f"layer-{size}", size) for size in sizes]))


def test_an_image_may_have_as_many_bytes_as_one_blob() -> None:
    Image((layers_of(MAX_SIZE - 14), layers_of(7, MAX_SIZE - 14))).require_bounded()  # with a config of 7 bytes


@pytest.mark.parametrize(
    "image",
    [
        Image((layers_of(MAX_SIZE),)),
        Image((layers_of(MAX_SIZE - 8), layers_of(2), ROOT)),
        Image((layers_of(*(MAX_SIZE - n for n in range(100))),)),
    ],
    ids=["one manifest", "two below an index", "a hundred layers"],
)
def test_an_image_whose_blobs_have_more_bytes_together_is_refused(image: Image) -> None:
    with pytest.raises(SizeInvalid, match=f"The image {image.digest} should have 0 to {MAX_SIZE} bytes"):
        image.require_bounded()


SBOM = entry("application/vnd.example.sbom+json", "sbom")
KNOWN = content(oci_manifest(layers=[entry(OCI_LAYER, "one")]))


def with_others(*others: Document) -> Image:
    return Image((KNOWN, content(oci_index(manifests=[*others]))))


def test_an_entry_of_unknown_type_is_an_optional_blob_and_is_listed_last() -> None:
    image = with_others(SBOM)
    assert names(image.optional_blobs) == [Digest.of(b"sbom")]
    assert names(image.blobs) == [Digest.of(b"config"), Digest.of(b"one"), Digest.of(b"sbom")]
    assert image.sizes[Digest.of(b"sbom")] == SBOM["size"]


@pytest.mark.parametrize("name", ["one", "config"])
def test_an_entry_that_a_manifest_needs_is_not_optional_whatever_size_its_index_gives_it(name: str) -> None:
    image = with_others(entry("application/vnd.example+json", name, 99))
    assert image.optional_blobs == ()
    assert image.sizes[Digest.of(name.encode())] == 7


def test_an_entry_without_a_type_that_is_a_manifest_is_not_a_blob() -> None:
    untyped = {"digest": str(KNOWN.descriptor.digest), "size": len(KNOWN.body)}
    assert with_others(untyped).optional_blobs == ()


def test_what_is_left_out_is_neither_a_blob_nor_a_platform() -> None:
    image = with_others(SBOM, SBOM)
    [sbom] = image.optional_blobs
    assert image.leaving_out([LeftOut(sbom, "it is gone")]).optional_blobs == ()
    assert isinstance(ROOT.parsed, Index)
    amd64 = next(child for child in ROOT.parsed.children if child.platform == Platform("linux", "amd64"))
    assert IMAGE.leaving_out([LeftOut(amd64, "it is gone")]).platforms == (Platform("linux", "arm64", "v8"),)


def test_merging_keeps_the_descriptor_that_embeds_the_content() -> None:
    plain = Descriptor(OCI_LAYER, Digest.of(b"a"), 1)
    carrying = Descriptor(OCI_LAYER, plain.digest, 1, data="YQ==")
    for order in ([plain, carrying], [carrying, plain]):
        [merged] = merge_by_digest(order)
        assert merged.inline_content() == b"a"


def test_merging_keeps_the_urls_that_only_another_descriptor_has() -> None:
    plain = Descriptor(DOCKER_FOREIGN, Digest.of(b"a"), 1)
    others = [replace(plain, data="YQ=="), replace(plain, urls=("https://a",)), replace(plain, urls=("https://b",))]
    [merged] = merge_by_digest([plain, *others])
    assert (merged.data, merged.urls) == ("YQ==", ("https://a",))


@pytest.mark.parametrize("data", [None, "", "YQ", "YQ==\n", "YmI=", "Yg==", "*", "é", "YQ==YQ=="])
def test_embedded_content_of_another_size_or_digest_is_ignored(data: str | None) -> None:
    assert Descriptor(OCI_LAYER, Digest.of(b"a"), 1, data=data).inline_content() is None
