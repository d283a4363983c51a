from __future__ import annotations

import pytest

from mirror.errors import StorageDamaged
from mirror.storage import layout
from tests.integration.catalog.support import APP, mirror_image
from tests.support import images
from tests.support.harness import Harness


def test_a_manifest_that_was_changed_in_the_bucket_is_not_served(harness: Harness) -> None:
    image = images.image(images.layer("a"))
    mirror_image(harness, image)
    harness.bucket.put(layout.blob_key(image.digest), image.body + b" ")
    with pytest.raises(StorageDamaged):
        harness.core.reader.manifest(APP)
