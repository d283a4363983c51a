"""The benchmark's images have the layers that its table says."""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile

from bench.shapes import MIB, LayerSpec, shapes
from bench.source import layer_bytes


def generate(spec: LayerSpec) -> tuple[bytes, str]:
    diff_id = hashlib.sha256()
    return b"".join(layer_bytes(spec, diff_id)), diff_id.hexdigest()


def test_many_layers_has_two_gibibytes_in_nineteen_layers() -> None:
    layers = shapes()["many-layers"].images[0].layers
    assert (len(layers), sum(layer.size for layer in layers)) == (19, 2048 * MIB)
    assert len({layer.seed for layer in layers}) == 19


def test_twenty_images_share_one_layer() -> None:
    images = shapes()["shared-base"].images
    assert len(images) == 20
    assert len({layer for image in images for layer in image.layers}) == 21


def test_a_layer_is_a_gzipped_tar_with_its_diff_id() -> None:
    content, diff_id = generate(LayerSpec("some", 3 * MIB + 17))
    plain = gzip.decompress(content)
    assert hashlib.sha256(plain).hexdigest() == diff_id
    with tarfile.open(fileobj=io.BytesIO(plain)) as archive:
        assert [(member.name, member.size) for member in archive] == [("data/some", 3 * MIB + 17)]


def test_a_layer_is_always_the_same_and_cannot_be_compressed() -> None:
    content, _ = generate(LayerSpec("some", MIB))
    assert generate(LayerSpec("some", MIB))[0] == content
    assert generate(LayerSpec("other", MIB))[0] != content
    assert len(gzip.compress(content)) > MIB
