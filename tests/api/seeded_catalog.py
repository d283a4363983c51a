"""Images put into the mirror as a worker would, without a registry to copy them from."""

from __future__ import annotations

from dataclasses import dataclass

from mirror.catalog.tag_change import TagUpdate
from mirror.oci.descriptor import Descriptor
from mirror.oci.digest import Digest
from mirror.oci.image import Image, LeftOut, ManifestContent
from mirror.oci.local_image import LocalImage
from mirror.oci.manifest import parse_manifest
from mirror.oci.verification import verify
from mirror.storage.blobs import BlobStore
from mirror.storage.provenance import ImageProvenance
from mirror.wiring import Core
from tests.support.images import TestImage

MIRRORED_AT = "2026-11-23T21:25:00Z"
JOB = "job_01JDB2V3R8Y0N5Q7T9W1X3Z5B7"


@dataclass(frozen=True, slots=True)
class SeededCatalog:
    """The stores of a service, filled by tests."""

    core: Core

    def hold(self, image: TestImage, name: str, *, source: str = "docker.io/library/test:1") -> TagUpdate:
        """Publish *image* as *name*, a `LocalImage`. One that is named by digest is kept."""
        stored(self.core.blobs, image)
        [change] = self.core.changes.take_numbers([(LocalImage.parse(name), "test")])
        origin = ImageProvenance(source, image.digest, MIRRORED_AT, JOB)
        return self.core.publisher.publish(change, whole(image), origin)

    def link_blob(self, repository: str, content: bytes) -> Digest:
        """A blob that *repository* serves, of no image."""
        digest = Digest.of(content)
        put_blob(self.core.blobs, digest, content)
        self.core.links.link_layer(repository, digest)
        return digest


def stored(blobs: BlobStore, image: TestImage) -> None:
    """Put all blobs of *image* into the bucket."""
    for digest, content in image.all_blobs().items():
        put_blob(blobs, digest, content)


def put_blob(blobs: BlobStore, digest: Digest, content: bytes) -> None:
    descriptor = Descriptor("application/octet-stream", digest, len(content))
    blobs.put(verify(content, descriptor), content)


def whole(image: TestImage) -> Image:
    """Return the parsed image. Foreign layers whose bytes *image* does not have are left out."""
    parsed = Image(tuple(_content(manifest) for manifest in image.all_manifests()))
    held = image.all_blobs()
    return parsed.leaving_out(
        LeftOut(layer, "the source does not serve it") for layer in parsed.foreign_layers if layer.digest not in held
    )


def _content(manifest: TestImage) -> ManifestContent:
    parsed = parse_manifest(manifest.body, manifest.media_type, what=str(manifest.digest))
    return ManifestContent(Descriptor(manifest.media_type, manifest.digest, len(manifest.body)), manifest.body, parsed)
