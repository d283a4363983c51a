"""The platform that an image is built for."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Self

from mirror.errors import quoted
from mirror.oci.glob import Glob


@dataclass(frozen=True, slots=True, order=True)
class Platform:
    """``os/architecture[/variant]``, and the version that distinguishes Windows builds (image spec, image-index.md)."""

    os: str
    architecture: str
    variant: str = ""
    os_version: str = ""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse two or three parts, as in ``linux/arm64/v8``. Raises ValueError."""
        parts = text.split("/")
        if len(parts) not in (2, 3) or not all(parts):
            raise ValueError(f"{quoted(text)} is not a platform: write os/architecture or os/architecture/variant")
        return cls(*parts)

    @property
    def is_unknown(self) -> bool:
        """Whether it is ``unknown/unknown``, the platform of BuildKit's attestation manifests."""
        return (self.os, self.architecture) == ("unknown", "unknown")

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)


@dataclass(frozen=True, slots=True, order=True)
class PlatformPattern:
    """A platform of a request: ``linux/arm64``, ``linux/arm64/v8`` or ``windows/amd64:10.0.20348.*``.

    Without a variant it matches every variant, and without a version every version. ``os_version`` is a glob.
    """

    os: str
    architecture: str
    variant: str = ""
    os_version: str = ""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse ``os/architecture[/variant][:os_version]``. Raises ValueError."""
        name, _, os_version = text.partition(":")
        platform = Platform.parse(name)
        _glob(os_version)
        return cls(platform.os, platform.architecture, platform.variant, os_version)

    def matches(self, platform: Platform) -> bool:
        """Whether the pattern chooses *platform*."""
        if (self.os, self.architecture) != (platform.os, platform.architecture):
            return False
        if self.variant and self.variant != platform.variant:
            return False
        return not self.os_version or _glob(self.os_version).matches(platform.os_version)

    def __str__(self) -> str:
        name = "/".join(part for part in (self.os, self.architecture, self.variant) if part)
        return f"{name}:{self.os_version}" if self.os_version else name


_glob = lru_cache(maxsize=128)(Glob.parse)
