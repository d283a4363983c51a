"""The platform that an image is built for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from mirror.errors import quoted


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
