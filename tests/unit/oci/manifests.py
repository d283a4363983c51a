"""Manifests and indexes as real tools write them."""

from __future__ import annotations

import json
from typing import Any

from mirror.oci import media_types
from mirror.oci.digest import Digest

Document = dict[str, Any]

OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
ZSTD_LAYER = "application/vnd.oci.image.layer.v1.tar+zstd"
OCI_FOREIGN = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"
DOCKER_FOREIGN = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
EMPTY = "application/vnd.oci.empty.v1+json"
CACHE_CONFIG = "application/vnd.buildkit.cacheconfig.v0"


def entry(media_type: str, name: str = "x", size: int = 7, algorithm: str = "sha256", **more: Any) -> Document:
    """Return the descriptor of the content *name*."""
    return {"mediaType": media_type, "digest": str(Digest.of(name.encode(), algorithm)), "size": size, **more}


def platform_entry(media_type: str, os: str, architecture: str, **more: Any) -> Document:
    return entry(media_type, f"{os}/{architecture}", platform={"os": os, "architecture": architecture, **more})


def oci_manifest(**more: Any) -> Document:
    return {
        "schemaVersion": 2,
        "mediaType": media_types.OCI_MANIFEST,
        "config": entry(OCI_CONFIG, "config"),
        "layers": [entry(OCI_LAYER, "one"), entry(ZSTD_LAYER, "two")],
        **more,
    }


def docker_manifest(**more: Any) -> Document:
    return {
        "schemaVersion": 2,
        "mediaType": media_types.DOCKER_MANIFEST,
        "config": entry(DOCKER_CONFIG, "config"),
        "layers": [entry(DOCKER_LAYER, "one")],
        **more,
    }


def oci_index(**more: Any) -> Document:
    """Return an index as buildx pushes it: two platforms, and an attestation as ``unknown/unknown``."""
    return {
        "schemaVersion": 2,
        "mediaType": media_types.OCI_INDEX,
        "manifests": [
            platform_entry(media_types.OCI_MANIFEST, "linux", "amd64"),
            platform_entry(media_types.OCI_MANIFEST, "linux", "arm64", variant="v8"),
            platform_entry(media_types.OCI_MANIFEST, "unknown", "unknown")
            | {"annotations": {"vnd.docker.reference.type": "attestation-manifest"}},
        ],
        **more,
    }


def docker_list(**more: Any) -> Document:
    windows = {"os.version": "10.0.20348.1", "os.features": ["win32k"]}
    return {
        "schemaVersion": 2,
        "mediaType": media_types.DOCKER_LIST,
        "manifests": [
            platform_entry(media_types.DOCKER_MANIFEST, "linux", "amd64"),
            platform_entry(media_types.DOCKER_MANIFEST, "windows", "amd64", **windows),
        ],
        **more,
    }


def without(document: Document, *fields: str) -> Document:
    return {name: value for name, value in document.items() if name not in fields}


def body(document: object) -> bytes:
    return json.dumps(document, indent=3).encode()
