"""An image manifest: one image, its config and its layers."""

from __future__ import annotations

from dataclasses import dataclass

from mirror.oci.descriptor import Descriptor


@dataclass(frozen=True, slots=True)
class Manifest:
    """A Docker schema 2 or OCI image manifest (image spec, manifest.md).

    ``subject`` is what the manifest refers to (a signature's image); ``artifact_type`` what it is, if not an image.
    """

    media_type: str
    config: Descriptor
    layers: tuple[Descriptor, ...]
    subject: Descriptor | None = None
    artifact_type: str = ""

    @property
    def blobs(self) -> tuple[Descriptor, ...]:
        """Config and layers, in the manifest's order."""
        return (self.config, *self.layers)
