"""The config of an image: the JSON blob that names its platform (image spec, config.md)."""

from __future__ import annotations

import json
from typing import Any, Final

from mirror.oci.manifest import Manifest, is_short_text
from mirror.oci.platform import UNKNOWN_PLATFORM, Platform

MAX_CONFIG_SIZE: Final = 4 * 1024 * 1024
_IMAGE_CONFIGS: Final = frozenset(
    {"application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json"}
)
_EMPTY_CONFIG: Final = "application/vnd.oci.empty.v1+json"


def may_have_platform(manifest: Manifest) -> bool:
    """Whether the config of *manifest* may name a platform. It does not for an artifact, such as a signature."""
    is_artifact = manifest.artifact_type or manifest.config.media_type == _EMPTY_CONFIG
    return not is_artifact and manifest.config.size <= MAX_CONFIG_SIZE


def parse_image_config(manifest: Manifest, content: bytes | None) -> dict[str, Any] | None:
    """Parse the config of *manifest*. Return None for what is no valid config of an image.

    A config of an unknown media type is one if it names a platform.
    """
    try:
        document = json.loads(content) if content else None
    except (ValueError, RecursionError):
        return None
    if not isinstance(document, dict):
        return None
    is_image = manifest.config.media_type in _IMAGE_CONFIGS or platform_of_config(document) is not None
    return document if is_image else None


def platform_of_config(config: dict[str, Any]) -> Platform | None:
    """Return the platform that a config names. Texts too long for a record count as empty."""
    parts = [config.get(field) for field in ("os", "architecture", "variant", "os.version")]
    os, architecture, variant, version = (part if is_short_text(part) else "" for part in parts)
    return Platform(os, architecture, variant, version) if os and architecture else None


def platform_of_image(manifest: Manifest, content: bytes | None) -> Platform | None:
    """Return the platform of a manifest with this config. None for an artifact, such as a Helm chart.

    It is ``unknown/unknown`` for an image whose config names none.
    """
    config = parse_image_config(manifest, content)
    if config is not None:
        return platform_of_config(config) or UNKNOWN_PLATFORM
    return UNKNOWN_PLATFORM if manifest.config.media_type in _IMAGE_CONFIGS else None
