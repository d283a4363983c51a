"""Images with layers too large for memory, at the scripted registry."""

from __future__ import annotations

import json

from mirror.oci import media_types
from tests import images
from tests.fakes.content import Synthetic
from tests.fakes.registry import FakeRegistry


def put(
    registry: FakeRegistry, repository: str, tag: str | None, *large: Synthetic, small: tuple[images.Layer, ...] = ()
) -> images.TestImage:
    """Hold an image of these layers, the large ones last."""
    plain = images.image(*small)
    document = json.loads(plain.body)
    document["layers"] += [
        {"mediaType": images.OCI_LAYER, "digest": str(one.digest), "size": one.size} for one in large
    ]
    image = images.TestImage(json.dumps(document).encode(), media_types.OCI_MANIFEST, plain.blobs)
    for layer in large:
        registry.put_blob(repository, layer.digest, layer)
    registry.put(image, repository, tag)
    return image
