"""The name of an image that the mirror holds."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Self

from mirror.errors import InvalidReference, InvalidTag, TargetReserved
from mirror.oci.digest import Digest
from mirror.oci.reference import DOCKER_HUB, is_tag, normalise_registry, repository_problem

OFFICIAL: Final = f"{DOCKER_HUB}/library"
"""The namespace of Docker Hub's official images."""
_HOST_LIKE: Final = re.compile(r".*\..*|localhost|.+_[1-9][0-9]{0,4}", re.ASCII)
_EXAMPLE: Final = "Write it as 'team/redis:7' or 'docker.io/library/redis@sha256:…'."
_NOT_OFFICIAL: Final = (
    "Only Docker Hub's official images, 'docker.io/library/…', may have such a name. Choose a target in your own "
    "namespace, such as 'team/redis'."
)
_PORT: Final = "Write a registry's port with an underscore, as in '127.0.0.1_5001/team/app:1'."


@dataclass(frozen=True, slots=True, order=True)
class LocalImage:
    """A repository of the mirror with a tag or a digest. It is never normalised: ``redis:7`` stays ``redis:7``.

    At most one of ``tag`` and ``digest`` is set. Without both it names a repository.
    """

    repository: str
    tag: str | None = None
    digest: Digest | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse ``team/redis:7`` or ``team/redis@sha256:…``. Raises InvalidReference, InvalidTag or InvalidDigest."""
        name, at, digest_text = text.partition("@")
        repository, colon, tag = name.partition(":")
        if "/" in tag:
            raise InvalidReference(text, "it has a colon before its last component", hint=_PORT)
        if problem := repository_problem(repository):
            raise InvalidReference(text, problem, hint=_EXAMPLE)
        if at and colon:
            raise InvalidReference(text, "it has both a tag and a digest", hint=_EXAMPLE)
        if colon and not is_tag(tag):
            raise InvalidTag(tag)
        return cls(repository, tag if colon else None, Digest.parse(digest_text) if at else None)

    @property
    def registry_component(self) -> str | None:
        """The first component if it looks like a registry, as in ``docker.io/…`` or ``127.0.0.1_5001/…``."""
        first, slash, _ = self.repository.partition("/")
        return first if slash and _HOST_LIKE.fullmatch(first) else None

    @property
    def looks_official(self) -> bool:
        """Whether a client may pull this as one of Docker Hub's official images.

        ``docker pull`` completes ``docker.io/redis`` to ``docker.io/library/redis``. A dockerd with the mirror in its
        ``registry-mirrors`` asks it for ``library/redis``.
        """
        first, _, rest = self.repository.partition("/")
        if first == DOCKER_HUB:
            return bool(rest) and ("/" not in rest or rest.startswith("library/"))
        return first == "library" and bool(rest)

    def require_source(self, source_component: str, source: str) -> None:
        """Raise TargetReserved if an image of another registry could appear under this name.

        *source* is the name of the image, *source_component* its registry as a first component. A name under a host
        accepts only images of that host. A name that looks official accepts only official images. An image that already
        has such a name may get more tags.
        """
        owner = self.registry_component
        if owner is not None and owner != source_component:
            raise TargetReserved(self.repository, owner, source)
        allowed = (f"{OFFICIAL}/", f"{self.repository}:", f"{self.repository}@")
        if self.looks_official and not source.startswith(allowed):
            raise TargetReserved(self.repository, OFFICIAL, source, hint=_NOT_OFFICIAL)

    def __str__(self) -> str:
        if self.digest:
            return f"{self.repository}@{self.digest}"
        return f"{self.repository}:{self.tag}" if self.tag else self.repository


def registry_component(registry: str) -> str:
    """Return a registry's ``host[:port]`` as the first component of a repository name.

    A port becomes ``_port``, because a repository cannot have a colon. A host has no underscore. So two registries
    never get the same name.
    """
    return registry.replace(":", "_")


def registry_of_component(component: str) -> str | None:
    """Return the registry that `registry_component` turned into *component*, None if it is no registry's."""
    if not _HOST_LIKE.fullmatch(component):
        return None
    host, _, port = component.rpartition("_")
    text = f"{host}:{port}" if host and port.isdigit() else component
    try:
        registry = normalise_registry(text, text)
    except InvalidReference:
        return None
    return registry if registry_component(registry) == component else None
