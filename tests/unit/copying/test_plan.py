from __future__ import annotations

import pytest

from mirror.copying.plan import plan_copy
from mirror.errors import SizeInvalid
from mirror.oci import media_types
from mirror.oci.descriptor import Descriptor
from mirror.oci.digest import Digest
from mirror.oci.image import Image, LeftOut, ManifestContent
from mirror.oci.manifest import Manifest

LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
FOREIGN = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"


def descriptor(name: str, size: int, media_type: str = LAYER) -> Descriptor:
    return Descriptor(media_type, Digest.of(name.encode()), size)


CONFIG = descriptor("config", 10, "application/vnd.oci.image.config.v1+json")
SMALL, LARGE, FOREIGN_LAYER = descriptor("small", 100), descriptor("large", 1000), descriptor("foreign", 5, FOREIGN)


def image(*layers: Descriptor) -> Image:
    manifest = Manifest(media_types.OCI_MANIFEST, CONFIG, layers)
    root = Descriptor(media_types.OCI_MANIFEST, Digest.of(b"root"), 2)
    return Image((ManifestContent(root, b"{}", manifest),))


def test_what_is_not_held_travels_largest_first() -> None:
    plan = plan_copy(image(SMALL, LARGE), {CONFIG.digest: 10})
    assert plan.to_copy == (LARGE, SMALL)
    assert plan.held == (CONFIG,)


def test_a_layer_that_is_named_twice_travels_once() -> None:
    assert plan_copy(image(SMALL, SMALL), {}).to_copy == (SMALL, CONFIG)


def test_a_foreign_layer_travels_like_any_other() -> None:
    assert plan_copy(image(SMALL, FOREIGN_LAYER), {}).to_copy == (SMALL, CONFIG, FOREIGN_LAYER)


def test_a_held_foreign_layer_does_not_travel() -> None:
    plan = plan_copy(image(FOREIGN_LAYER), {CONFIG.digest: 10, FOREIGN_LAYER.digest: 5})
    assert (plan.to_copy, plan.held) == ((), (CONFIG, FOREIGN_LAYER))


def test_a_held_foreign_layer_of_another_size_is_not_what_the_manifest_describes() -> None:
    with pytest.raises(SizeInvalid, match="should have 5 bytes and has 6"):
        plan_copy(image(FOREIGN_LAYER), {FOREIGN_LAYER.digest: 6})


def test_a_foreign_layer_that_is_left_out_is_not_in_the_plan() -> None:
    left_out = image(SMALL, FOREIGN_LAYER).leaving_out([LeftOut(FOREIGN_LAYER, "the source does not serve it")])
    plan = plan_copy(left_out, {CONFIG.digest: 10})
    assert (plan.to_copy, plan.held) == ((SMALL,), (CONFIG,))


def test_a_held_blob_of_another_size_is_not_what_the_manifest_describes() -> None:
    with pytest.raises(SizeInvalid, match="should have 100 bytes and has 99"):
        plan_copy(image(SMALL), {SMALL.digest: 99})


def test_two_descriptors_that_disagree_about_a_size_are_refused() -> None:
    liar = Descriptor(LAYER, SMALL.digest, 101)
    with pytest.raises(SizeInvalid):
        plan_copy(image(SMALL, liar), {})
