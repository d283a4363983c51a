"""Images that are mirrored for the tests of the catalog."""

from __future__ import annotations

from mirror.oci.digest import Digest
from mirror.oci.local_image import LocalImage
from tests.support import images
from tests.support.harness import Harness

APP = LocalImage("team/app", "1")


def always(_: Digest | None) -> bool:
    """A precondition that allows every change."""
    return True


def mirror_image(harness: Harness, image: images.TestImage, target: LocalImage = APP) -> None:
    harness.registry.put(image, "source/app", "1")
    job = harness.mirror("source/app:1", str(target))
    assert job.state == "succeeded", job.error
