"""The media types the mirror knows, and what each means for it.

Only manifests of these types are ever written: a manifest of an unknown type makes a stock registry answer 500
and stops its garbage collector, so a type is gated before the first byte is stored.
"""

from __future__ import annotations

from typing import Final

OCI_INDEX: Final = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
DOCKER_LIST: Final = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST: Final = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_SCHEMA_1: Final = "application/vnd.docker.distribution.manifest.v1+json"
DOCKER_SCHEMA_1_SIGNED: Final = "application/vnd.docker.distribution.manifest.v1+prettyjws"

MANIFESTS: Final = frozenset({OCI_MANIFEST, DOCKER_MANIFEST})
INDEXES: Final = frozenset({OCI_INDEX, DOCKER_LIST})
ACCEPTED: Final = (OCI_INDEX, OCI_MANIFEST, DOCKER_LIST, DOCKER_MANIFEST)
"""What a source is asked for, in order of preference. Without it some registries convert to schema 1."""

UNTOLD: Final = frozenset({"application/json", "application/octet-stream", "binary/octet-stream", "text/plain"})
"""Content-Types of servers that do not know what they serve, such as a web server with files: the body tells."""

_BLOB_PREFIXES: Final = (
    "application/vnd.oci.image.layer.",
    "application/vnd.oci.image.config.",
    "application/vnd.docker.image.rootfs.",
    "application/vnd.docker.container.image.",
    "application/vnd.buildkit.cacheconfig.",
)


def is_foreign_layer(media_type: str) -> bool:
    """Whether the layer must not be distributed: told by its type, never by its ``urls`` (image spec, layer.md)."""
    return media_type.startswith(
        ("application/vnd.oci.image.layer.nondistributable.", "application/vnd.docker.image.rootfs.foreign.")
    )


def is_known_blob(media_type: str) -> bool:
    """Whether a child of an index is a plain blob: BuildKit's cache indexes list their layers among ``manifests``."""
    return media_type.startswith(_BLOB_PREFIXES)
