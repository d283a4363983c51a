"""The media types that the mirror knows.

Only manifests of these types are stored. A manifest of another type would make a stock registry return 500, and would
stop its garbage collector.
"""

from __future__ import annotations

from typing import Final

OCI_INDEX: Final = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
DOCKER_LIST: Final = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST: Final = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_SCHEMA_1: Final = "application/vnd.docker.distribution.manifest.v1+json"
DOCKER_SCHEMA_1_SIGNED: Final = "application/vnd.docker.distribution.manifest.v1+prettyjws"

SCHEMA_1: Final = frozenset({DOCKER_SCHEMA_1, DOCKER_SCHEMA_1_SIGNED})
MANIFESTS: Final = frozenset({OCI_MANIFEST, DOCKER_MANIFEST})
INDEXES: Final = frozenset({OCI_INDEX, DOCKER_LIST})
ACCEPTED: Final = (OCI_INDEX, OCI_MANIFEST, DOCKER_LIST, DOCKER_MANIFEST)
"""The header Accept of a manifest request. Without it, some registries convert manifests to schema 1."""

GENERIC: Final = frozenset({"application/json", "application/octet-stream", "binary/octet-stream", "text/plain"})
"""Content-Types of servers that do not know what they serve, such as a web server with files."""

FOREIGN_LAYER_PREFIXES: Final = (
    "application/vnd.oci.image.layer.nondistributable.",
    "application/vnd.docker.image.rootfs.foreign.",
)
"""Layers that only their publisher may distribute to everybody, such as the base layers of Windows.

The type decides, never the field ``urls`` (image spec, layer.md).
"""

BLOB_PREFIXES: Final = (
    "application/vnd.oci.image.layer.",
    "application/vnd.oci.image.config.",
    "application/vnd.docker.image.rootfs.",
    "application/vnd.docker.container.image.",
    "application/vnd.buildkit.cacheconfig.",
)

"""Entries of an index that are blobs: BuildKit's cache indexes list their layers among ``manifests``."""
