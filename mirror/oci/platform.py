"""The platform that an image is built for, and patterns that choose platforms."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Self

from mirror.errors import quoted
from mirror.oci.glob import Glob

_ARCHITECTURES: Final = {"x86_64": "amd64", "x86-64": "amd64", "aarch64": "arm64", "i386": "386"}
_VARIANTS: Final = {
    ("amd64", "v1"): "",
    ("arm64", "8"): "",
    ("arm64", "v8"): "",
    ("arm64", "v8.0"): "",
    ("arm64", "9"): "v9",
    ("arm64", "v9.0"): "v9",
    ("arm", ""): "v7",
    ("arm", "5"): "v5",
    ("arm", "6"): "v6",
    ("arm", "7"): "v7",
    ("arm", "8"): "v8",
}
_ARM_NAMES: Final = {"armhf": "v7", "armel": "v6"}
_LONGEST: Final = 255
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9_.-]*\Z")
_VERSION: Final = re.compile(r"[A-Za-z0-9_.*?\[\]!^-]+\Z")


@dataclass(frozen=True, slots=True, order=True)
class Platform:
    """``os/architecture[/variant]``, and the version that distinguishes Windows builds (image spec, image-index.md)."""

    os: str
    architecture: str
    variant: str = ""
    os_version: str = ""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse ``linux/arm64/v8`` or ``windows/amd64:10.0.20348.1``. Raises ValueError."""
        name, _, os_version = text.partition(":")
        parts = name.split("/")
        if len(parts) not in (2, 3) or not all(parts):
            raise ValueError(f"{quoted(text)} is not a platform: write os/architecture or os/architecture/variant")
        return cls(parts[0], parts[1], parts[2] if len(parts) == 3 else "", os_version)

    @property
    def is_unknown(self) -> bool:
        """Whether it is ``unknown/unknown``, the platform of BuildKit's attestation manifests."""
        return (self.os, self.architecture) == ("unknown", "unknown")

    @property
    def normalized(self) -> Self:
        """The platform in the spelling of containerd's ``platforms.Normalize``, which images and nodes share.

        ``linux/arm64/v8`` is ``linux/arm64``, ``linux/arm`` is ``linux/arm/v7``, and ``linux/x86_64`` is
        ``linux/amd64``.
        """
        os, architecture, variant = self.os.lower(), self.architecture.lower(), self.variant.lower()
        if architecture in _ARM_NAMES:
            architecture, variant = "arm", _ARM_NAMES[architecture]
        architecture = _ARCHITECTURES.get(architecture, architecture)
        variant = "" if architecture == "386" else _VARIANTS.get((architecture, variant), variant)
        return type(self)("darwin" if os == "macos" else os, architecture, variant, self.os_version)

    def __str__(self) -> str:
        name = "/".join(part for part in (self.os, self.architecture, self.variant) if part)
        return f"{name}:{self.os_version}" if self.os_version else name


UNKNOWN_PLATFORM: Final = Platform("unknown", "unknown")


@dataclass(frozen=True, slots=True, order=True)
class PlatformPattern:
    """A platform of a request: ``linux/arm64``, ``linux/arm64/v8`` or ``windows/amd64:10.0.20348.*``.

    Without a variant it matches every variant, and without a version every version. ``os_version`` is a glob. Other
    spellings of an architecture mean the same: ``linux/x86_64`` is ``linux/amd64``.
    """

    os: str
    architecture: str
    variant: str = ""
    os_version: str = ""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse ``os/architecture[/variant][:os_version]``. Raises ValueError."""
        name, colon, os_version = text.partition(":")
        written = Platform.parse(name)
        named = written.normalized
        variant = written.variant.lower() or (named.variant if written.architecture.lower() in _ARM_NAMES else "")
        parts = [named.os, named.architecture, *([variant] if variant else [])]
        is_short = len(text) <= _LONGEST
        if not is_short or not all(map(_NAME.match, parts)) or (colon and not _VERSION.match(os_version)):
            raise ValueError(f"{quoted(text)} is not a platform: write os/architecture[/variant][:os_version]")
        _glob(os_version)
        return cls(named.os, named.architecture, variant, os_version)

    def matches(self, platform: Platform) -> bool:
        """Whether the pattern chooses *platform*."""
        found = platform.normalized
        if (self.os, self.architecture) != (found.os, found.architecture):
            return False
        if self.variant and Platform(self.os, self.architecture, self.variant).normalized.variant != found.variant:
            return False
        return not self.os_version or _glob(self.os_version).matches(found.os_version)

    def __str__(self) -> str:
        return str(Platform(self.os, self.architecture, self.variant, self.os_version))


def best_platform(platforms: Iterable[Platform]) -> Platform:
    """Return the platform that most nodes of one architecture can run.

    The architecture's baseline is first: amd64 (v1), arm64 (v8) and arm/v7. Then come the lower variants, the highest
    first, and then the higher ones, the lowest first. Of several Windows builds the newest is first. containerd's
    ``platforms.Only`` has the same order for a node of the baseline, and does not run the higher variants.
    """
    return min(platforms, key=_preference)


def _preference(platform: Platform) -> tuple[int, int, tuple[int, ...], Platform]:
    found = platform.normalized
    number = re.fullmatch(r"v(\d+)(?:\.\d+)*", found.variant)
    baseline = Platform(found.os, found.architecture).normalized.variant
    base = int(baseline[1:]) if baseline else 0
    level = int(number[1]) if number else 0 if not found.variant else 1000
    is_higher, distance = level > base, abs(level - base)
    build = tuple(-int(part) for part in found.os_version.split(".") if part.isdigit())
    return int(is_higher), distance, (*build, 0), platform


_glob = lru_cache(maxsize=128)(Glob.parse)
