"""Reading what is held, from the bucket itself: what pulls and inspections are answered from."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Final

from mirror.errors import BlobNotHeld, ContentError, ImageNotHeld, StorageDamaged
from mirror.oci.descriptor import Descriptor
from mirror.oci.digest import Digest
from mirror.oci.image import Image, LeftOut, ManifestContent
from mirror.oci.local_image import LocalImage
from mirror.oci.manifest import MAX_MANIFEST_SIZE, Index, Manifest, is_short_text, parse_manifest
from mirror.oci.platform import Platform
from mirror.oci.verification import verify
from mirror.storage.blobs import BlobStore
from mirror.storage.bucket import Bucket
from mirror.storage.links import LinkStore
from mirror.storage.provenance import ImageProvenance, ProvenanceStore

MAX_CONFIG_SIZE: Final = 4 * 1024 * 1024
_IMAGE_CONFIGS: Final = frozenset(
    {"application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json"}
)
_EMPTY_CONFIG: Final = "application/vnd.oci.empty.v1+json"
_ABSENT: Final = "the mirror does not hold it"


@dataclass(frozen=True, slots=True)
class ImageDetail:
    """One held image in full. ``config`` is the image config of a single manifest, None for an index or an artifact."""

    name: LocalImage
    image: Image
    document: dict[str, Any]
    config: dict[str, Any] | None
    platforms: tuple[Platform, ...]
    provenance: ImageProvenance | None


class CatalogReader:
    """Answers what the bucket holds; every name is looked up in its own repository, never across."""

    def __init__(self, bucket: Bucket) -> None:
        self._blobs = BlobStore(bucket)
        self._links = LinkStore(bucket)
        self._provenance = ProvenanceStore(bucket)

    def digest(self, name: LocalImage) -> Digest:
        """What a tag points at, or the digest itself if the repository holds it; raises ImageNotHeld."""
        if name.digest:
            found = name.digest if self._links.has_revision(name.repository, name.digest) else None
        else:
            found = self._links.current(name.repository, name.tag or "latest")
        if found is None:
            raise ImageNotHeld(str(name))
        return found

    def manifest(self, name: LocalImage) -> ManifestContent:
        """A manifest that the repository holds, checked against its digest; raises ImageNotHeld or StorageDamaged."""
        digest = self.revision(name)
        body = self.body(name, digest)
        return checked_manifest(body, digest)

    def revision(self, name: LocalImage) -> Digest:
        """The digest of a manifest that the repository may serve; raises ImageNotHeld."""
        digest = self.digest(name)
        if not name.digest and not self._links.has_revision(name.repository, digest):
            raise ImageNotHeld(str(name))
        return digest

    def content(self, digest: Digest) -> ManifestContent:
        """A manifest that the bucket holds for any repository; raises ImageNotHeld or StorageDamaged.

        For work inside the mirror only: what a caller may read is what `manifest` reads.
        """
        body = self._blobs.read(digest, MAX_MANIFEST_SIZE)
        if body is None:
            raise ImageNotHeld(str(digest))
        return checked_manifest(body, digest)

    def body(self, name: LocalImage, digest: Digest) -> bytes:
        """The bytes of the manifest that *name* stands for, unchecked; raises ImageNotHeld."""
        body = self._blobs.read(digest, MAX_MANIFEST_SIZE)
        if body is None:
            raise ImageNotHeld(str(name))
        return body

    def blob_size(self, repository: str, digest: Digest) -> int:
        """Bytes of a blob that the repository links; raises BlobNotHeld."""
        size = self._blobs.held(digest) if self._links.has_layer(repository, digest) else None
        if size is None:
            raise BlobNotHeld(repository, str(digest))
        return size

    def image(self, name: LocalImage) -> Image:
        """The whole tree below a name, as it is held; raises ImageNotHeld. Entries that are absent are left out."""
        found: dict[Digest, ManifestContent] = {}
        self._collect(self.manifest(name), name.repository, found)
        return self.as_held(Image(tuple(found.values())), name.repository)

    def as_held(self, image: Image, repository: str) -> Image:
        """The image without the entries of its indexes that *repository* does not have.

        S3 is asked only for entries with an unknown media type.
        """
        optional = [b for b in image.optional_blobs if not self._links.has_layer(repository, b.digest)]
        return image.leaving_out(LeftOut(entry, _ABSENT) for entry in (*image.absent_children, *optional))

    def inspect(self, name: LocalImage) -> ImageDetail:
        """Everything there is to say about one image; raises ImageNotHeld."""
        image = self.image(name)
        config = self.config(image)
        return ImageDetail(
            name=name,
            image=image,
            document=json.loads(image.root.body),
            config=config,
            platforms=platforms(image, config),
            provenance=self._provenance.image(name.repository, image.digest),
        )

    def config(self, image: Image) -> dict[str, Any] | None:
        """The image config of a single manifest, None for everything else and for what cannot be read as one.

        A config of an unknown media type counts as one if it names a platform and the manifest is no artifact.
        """
        root = image.root.parsed
        if not isinstance(root, Manifest) or root.artifact_type or root.config.media_type == _EMPTY_CONFIG:
            return None
        if root.config.size > MAX_CONFIG_SIZE:
            return None
        content = self._blobs.read(root.config.digest, MAX_CONFIG_SIZE)
        try:
            document = json.loads(content) if content else None
        except (ValueError, RecursionError):
            return None
        if not isinstance(document, dict):
            return None
        is_image = root.config.media_type in _IMAGE_CONFIGS or _platform_of(document) is not None
        return document if is_image else None

    def _collect(self, content: ManifestContent, repository: str, found: dict[Digest, ManifestContent]) -> None:
        if isinstance(content.parsed, Index):
            for child in content.parsed.possible_manifests:
                if child.digest in found or not self._links.has_revision(repository, child.digest):
                    continue
                self._collect(self.manifest(LocalImage(repository, digest=child.digest)), repository, found)
        found.setdefault(content.descriptor.digest, content)


def checked_manifest(body: bytes, digest: Digest) -> ManifestContent:
    """Parse what was read from the bucket and check it against its digest; raises StorageDamaged. No I/O."""
    try:
        parsed = parse_manifest(body, None, what=str(digest))
        descriptor = Descriptor(parsed.media_type, digest, len(body))
        verify(body, descriptor)
    except ContentError as error:
        raise StorageDamaged(str(digest), error.message) from None
    return ManifestContent(descriptor, body, parsed)


def platforms(image: Image, config: dict[str, Any] | None) -> tuple[Platform, ...]:
    """The platforms of an index, or the one that a single image's config names."""
    if isinstance(image.root.parsed, Index) or config is None:
        return image.platforms
    platform = _platform_of(config)
    return (platform,) if platform else ()


def _platform_of(config: dict[str, Any]) -> Platform | None:
    """The platform that a config names, in short texts that every record can hold."""
    parts = [config.get(field) for field in ("os", "architecture", "variant", "os.version")]
    os, architecture, variant, version = (part if is_short_text(part) else "" for part in parts)
    return Platform(os, architecture, variant, version) if os and architecture else None
