"""Read what the mirror holds from the bucket itself, for jobs and for showing one image in full."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

from mirror.errors import ContentError, ImageNotHeld, StorageDamaged
from mirror.oci.descriptor import Descriptor
from mirror.oci.digest import Digest
from mirror.oci.image import Image, LeftOut, ManifestContent
from mirror.oci.image_config import MAX_CONFIG_SIZE, may_have_platform, parse_image_config, platform_of_config
from mirror.oci.local_image import LocalImage
from mirror.oci.manifest import MAX_MANIFEST_SIZE, Index, Manifest, parse_manifest
from mirror.oci.platform import Platform
from mirror.oci.verification import verify
from mirror.storage.blobs import BlobStore
from mirror.storage.links import LinkStore
from mirror.storage.provenance import ImageProvenance, ImageSummary, ProvenanceStore

_READERS: Final = 16
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
    """Reads manifests, images and their configs. A name is looked up in its own repository, never in another.

    Safe to share between threads. Every method raises StorageUnavailable or StorageRefused.
    """

    def __init__(self, blobs: BlobStore, links: LinkStore, provenance: ProvenanceStore) -> None:
        self._blobs = blobs
        self._links = links
        self._provenance = provenance

    def digest(self, name: LocalImage) -> Digest:
        """Return what a tag points at, or the digest itself if the repository has it. Raises ImageNotHeld."""
        if name.digest:
            found = name.digest if self._links.has_revision(name.repository, name.digest) else None
        else:
            found = self._links.current(name.repository, name.tag or "latest")
        if found is None:
            raise ImageNotHeld(str(name))
        return found

    def manifest(self, name: LocalImage) -> ManifestContent:
        """Return a manifest of the repository, checked against its digest. Raises ImageNotHeld or StorageDamaged."""
        digest = self.digest(name)
        if not name.digest and not self._links.has_revision(name.repository, digest):
            raise ImageNotHeld(str(name))
        body = self._blobs.read(digest, MAX_MANIFEST_SIZE)
        if body is None:
            raise ImageNotHeld(str(name))
        return checked_manifest(body, digest)

    def manifest_of_any(self, digest: Digest) -> ManifestContent:
        """Return a manifest that the bucket holds for any repository. Raises ImageNotHeld or StorageDamaged.

        For work inside the mirror only. A client may read what `manifest` reads.
        """
        body = self._blobs.read(digest, MAX_MANIFEST_SIZE)
        if body is None:
            raise ImageNotHeld(str(digest))
        return checked_manifest(body, digest)

    def image(self, name: LocalImage) -> Image:
        """Return the whole tree below a name, without entries that are absent. Raises ImageNotHeld."""
        found: dict[Digest, ManifestContent] = {}
        self._collect(self.manifest(name), name.repository, found)
        return self.as_held(Image(tuple(found.values())), name.repository)

    def as_held(self, image: Image, repository: str) -> Image:
        """Return the image without what *repository* does not have: entries of its indexes, and foreign layers.

        Only foreign layers, and entries with an unknown media type, are looked for in S3.
        """
        uncertain = (*image.optional_blobs, *image.foreign_layers)
        absent = self._without_link(repository, uncertain) if uncertain else []
        return image.leaving_out(LeftOut(entry, _ABSENT) for entry in (*image.absent_children, *absent))

    def _without_link(self, repository: str, blobs: Sequence[Descriptor]) -> list[Descriptor]:
        with ThreadPoolExecutor(min(len(blobs), _READERS), thread_name_prefix="links") as pool:
            links = pool.map(lambda blob: self._links.has_layer(repository, blob.digest), blobs)
            return [blob for blob, is_linked in zip(blobs, links, strict=True) if not is_linked]

    def held(self, sizes: Mapping[Digest, int]) -> set[Digest]:
        """Return which of these manifests and blobs the bucket has with their size in bytes. Costs a request each."""
        with ThreadPoolExecutor(_READERS, thread_name_prefix="heads") as pool:
            found = pool.map(self._blobs.held, sizes)
            return {digest for digest, size in zip(sizes, found, strict=True) if size == sizes[digest]}

    def inspect(self, name: LocalImage) -> ImageDetail:
        """Return everything that is known of one image. Raises ImageNotHeld."""
        image = self.image(name)
        config = self.config(image)
        return ImageDetail(
            name=name,
            image=image,
            document=json.loads(image.root.body),
            config=config,
            platforms=_platforms(image, config),
            provenance=self._provenance.image(name.repository, image.digest),
        )

    def config(self, image: Image) -> dict[str, Any] | None:
        """Return the image config of a single manifest. None for anything else, and for what is no valid config.

        A config of an unknown media type is one if it names a platform and the manifest is no artifact.
        """
        root = image.root.parsed
        if not isinstance(root, Manifest) or not may_have_platform(root):
            return None
        return parse_image_config(root, self._blobs.read(root.config.digest, MAX_CONFIG_SIZE))

    def summarize(self, image: Image) -> ImageSummary:
        """Return what lists show of *image*, whatever tag shows it. Reads its config."""
        platforms = tuple(str(platform) for platform in _platforms(image, self.config(image)))
        return ImageSummary(image.root.descriptor.media_type, platforms, image.sizes)

    def _collect(self, content: ManifestContent, repository: str, found: dict[Digest, ManifestContent]) -> None:
        if isinstance(content.parsed, Index):
            for child in content.parsed.possible_manifests:
                if child.digest in found or not self._links.has_revision(repository, child.digest):
                    continue
                self._collect(self.manifest(LocalImage(repository, digest=child.digest)), repository, found)
        found.setdefault(content.descriptor.digest, content)


def checked_manifest(body: bytes, digest: Digest) -> ManifestContent:
    """Parse a manifest that was read from the bucket, and check its digest. Raises StorageDamaged. No I/O."""
    try:
        parsed = parse_manifest(body, None, what=str(digest))
        descriptor = Descriptor(parsed.media_type, digest, len(body))
        verify(body, descriptor)
    except ContentError as error:
        raise StorageDamaged(str(digest), error.message) from None
    return ManifestContent(descriptor, body, parsed)


def _platforms(image: Image, config: dict[str, Any] | None) -> tuple[Platform, ...]:
    """Return the platforms of an index, or the one that a single image's config names."""
    if isinstance(image.root.parsed, Index) or config is None:
        return image.platforms
    platform = platform_of_config(config)
    return (platform,) if platform else ()
