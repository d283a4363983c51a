"""Where a registry's API is, and where plain HTTP is allowed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from mirror.http.transport import Origin
from mirror.oci.reference import DOCKER_HUB
from mirror.settings import Settings

DOCKER_HUB_API: Final = "https://registry-1.docker.io"


@dataclass(frozen=True, slots=True)
class Endpoints:
    """Maps a registry's name to its URL, by the settings or by the name itself."""

    insecure: frozenset[str] = frozenset()
    overrides: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def from_settings(cls, settings: Settings) -> Endpoints:
        return cls(settings.insecure_registries, settings.registry_endpoints)

    def base_url(self, registry: str) -> str:
        """Return the scheme, the host and perhaps a path, without a slash at the end."""
        if registry in self.overrides:
            return self.overrides[registry]
        if registry == DOCKER_HUB:
            return DOCKER_HUB_API
        return f"http://{registry}" if registry in self.insecure else f"https://{registry}"

    def permits_anyone(self, origin: Origin) -> bool:
        """Whether any registry or manifest may send us to *origin*: by http only where a setting names it."""
        return origin.scheme == "https" or bool({str(origin), f"{origin.host}:{origin.port}"} & self.insecure)

    def permits(self, registry: str, origin: Origin) -> bool:
        """Whether *registry* may send us to *origin*: by http only where allowed.

        An ``http://`` endpoint permits exactly its own host and port. Every registry may send us to a name in
        MIRROR_INSECURE_REGISTRIES. The registry of that name may also use other ports of its host, since its token
        server may listen on another one.
        """
        if self.permits_anyone(origin):
            return True
        base = Origin.of(self.base_url(registry))
        if base.scheme != "http":
            return False
        return origin == base or (registry in self.insecure and origin.host == base.host)
