"""A whole image, put together from its parsed manifests."""

from __future__ import annotations

import pytest

from mirror.errors import SizeInvalid
from mirror.oci import media_types
from mirror.oci.descriptor import MAX_SIZE, Descriptor
from mirror.oci.digest import Digest
from mirror.oci.image import Image, ManifestContent, merge_by_digest
from mirror.oci.parsing import parse_manifest
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


def test_the_root_is_the_last_manifest_and_gives_the_image_its_digest() -> None:
    assert IMAGE.root is ROOT
    assert IMAGE.digest == Digest.of(ROOT.body)


def test_a_blob_that_two_manifests_share_is_there_once() -> None:
    assert names(IMAGE.blobs) == [Digest.of(b"config"), Digest.of(b"one"), Digest.of(b"two")]


def test_foreign_layers_stand_apart() -> None:
    assert names(IMAGE.foreign_layers) == [Digest.of(b"windows base")]


def test_the_sizes_are_those_of_blobs_and_manifests_without_foreign_layers() -> None:
    assert IMAGE.sizes == {
        **{Digest.of(name): 7 for name in (b"config", b"one", b"two")},
        **{Digest.of(m.body): len(m.body) for m in (ONE, OTHER, ROOT)},
    }


def test_the_platforms_are_the_index_s_without_attestations() -> None:
    assert IMAGE.platforms == (Platform("linux", "amd64"), Platform("linux", "arm64", "v8"))
    assert Image((ONE,)).platforms == ()


def test_the_blobs_of_a_build_cache_are_the_image_s() -> None:
    cache = Image((content(oci_index(manifests=[entry(OCI_LAYER, "cached")])),))
    assert names(cache.blobs) == [Digest.of(b"cached")]


def test_two_sizes_for_one_digest_are_refused() -> None:
    layers = [entry(OCI_LAYER, "one", 7), entry(OCI_LAYER, "one", 8)]
    with pytest.raises(SizeInvalid, match="should have 7 bytes and has 8"):
        _ = Image((content(oci_manifest(layers=layers)),)).blobs


def test_merging_keeps_the_first_description_and_the_order() -> None:
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
