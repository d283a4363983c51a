"""One image in full, as `ImageDetailSchema` writes it. Pure."""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from typing import Any

from mirror.catalog.reader import ImageDetail
from mirror.oci.descriptor import Descriptor
from mirror.oci.digest import Digest
from mirror.oci.image import ManifestContent, merge_by_digest
from mirror.oci.manifest import Index, Manifest
from mirror.oci.platform import Platform
from mirror.storage.provenance import platforms_mode


def image_document(detail: ImageDetail) -> dict[str, Any]:
    image, origin = detail.image, detail.provenance
    return {
        "repository": detail.name.repository,
        "tag": detail.name.tag,
        "digest": str(image.digest),
        "media_type": image.root.descriptor.media_type,
        "size": sum(image.sizes.values()),
        "platforms": _platforms(detail),
        "source": (origin and origin.source) or None,
        "mirrored_at": (origin and origin.mirrored_at) or None,
        "job": (origin and origin.job) or None,
        "source_digest": str(origin.digest) if origin and origin.source else None,
        "platforms_mode": platforms_mode(origin.platforms if origin else None),
        "signature": origin.signature.fields() if origin and origin.signature else None,
        "manifest": detail.document,
        "images": _platform_images(detail),
        "config": detail.config,
    }


def _platforms(detail: ImageDetail) -> list[str]:
    """Return the platforms that the mirror holds. If no index names them, they are those that the copy found."""
    summary = detail.provenance.summary if detail.provenance else None
    return [str(platform) for platform in detail.platforms] or list(summary.platforms if summary else ())


def _platform_images(detail: ImageDetail) -> list[dict[str, Any]]:
    """Every image manifest below the name, with the platform that an index gives it or, alone, its config."""
    platforms = _platforms_by_digest(detail)
    held = {blob.digest for blob in detail.image.blobs}
    return [
        _platform_image(content, content.parsed, platforms.get(content.descriptor.digest), held)
        for content in detail.image.manifests
        if isinstance(content.parsed, Manifest)
    ]


def _platforms_by_digest(detail: ImageDetail) -> dict[Digest, Platform]:
    if isinstance(detail.image.root.parsed, Manifest):
        return dict.fromkeys([detail.image.digest], detail.platforms[0]) if detail.platforms else {}
    return {
        child.digest: child.platform
        for content in detail.image.manifests
        if isinstance(content.parsed, Index)
        for child in content.parsed.possible_manifests
        if child.platform is not None
    }


def _platform_image(
    content: ManifestContent, manifest: Manifest, platform: Platform | None, held: AbstractSet[Digest]
) -> dict[str, Any]:
    blobs = merge_by_digest(blob for blob in manifest.blobs if blob.digest in held)
    layers = [(layer, {"foreign": layer.is_foreign_layer, "held": layer.digest in held}) for layer in manifest.layers]
    return {
        "digest": str(content.descriptor.digest),
        "media_type": content.descriptor.media_type,
        "platform": None if platform is None else str(platform),
        "size": content.descriptor.size + sum(blob.size for blob in blobs),
        "config": _descriptor(manifest.config),
        "layers": [{**_descriptor(layer), **marks} for layer, marks in layers],
    }


def _descriptor(descriptor: Descriptor) -> dict[str, Any]:
    return {"digest": str(descriptor.digest), "size": descriptor.size, "media_type": descriptor.media_type}
