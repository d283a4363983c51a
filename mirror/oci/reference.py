"""What upstream is asked for: a registry, a repository, and a tag or a digest."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Self

from mirror.errors import InvalidInput, InvalidReference, InvalidTag
from mirror.oci.digest import Digest
from mirror.oci.names import MAX_NAME_LENGTH, is_tag, repository_problem

DOCKER_HUB: Final = "docker.io"
DEFAULT_TAG: Final = "latest"
_DOCKER_HUB_HOSTS: Final = frozenset(
    {"docker.io", "index.docker.io", "registry-1.docker.io", "registry.hub.docker.com"}
)
_HOST: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?(?:\.[a-z0-9](?:[a-z0-9-]*[a-z0-9])?)*", re.ASCII)
_IMAGE_ID: Final = re.compile(r"[a-f0-9]{64}", re.ASCII)
_MAX_TEXT: Final = 1024


@dataclass(frozen=True, slots=True, order=True)
class Reference:
    """A source, normalised as ``docker pull`` does: ``redis`` is ``docker.io/library/redis:latest``.

    ``registry`` is a lower-case ``host[:port]`` without trailing dot or the default port 443. At least one of ``tag``
    and ``digest`` is set; with both, the digest decides what is pulled and the tag is only a name.
    """

    registry: str
    repository: str
    tag: str | None
    digest: Digest | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read what ``docker pull`` accepts (distribution/reference).

        Raises InvalidReference, InvalidTag or InvalidDigest.
        """
        _refuse_what_is_no_name(text)
        name, at, digest_text = text.partition("@")
        digest = Digest.parse(digest_text) if at else None
        name, tag = _split_tag(name)
        if tag is not None and not is_tag(tag):
            raise InvalidTag(tag)
        registry, repository = _split_registry(name, text)
        if registry == DOCKER_HUB and repository and "/" not in repository:
            repository = f"library/{repository}"
        if problem := repository_problem(repository):
            raise InvalidReference(text, problem)
        if len(registry) + 1 + len(repository) > MAX_NAME_LENGTH:
            raise InvalidReference(text, f"host and repository together have more than {MAX_NAME_LENGTH} characters")
        if (registry, repository) == (DOCKER_HUB, "library/scratch"):
            raise InvalidReference(text, "'scratch' is a reserved name, not an image")
        if tag is None and digest is None:
            tag = DEFAULT_TAG
        return cls(registry, repository, tag, digest)

    @property
    def target(self) -> str:
        """What the registry is asked for: the digest if there is one, else the tag."""
        return str(self.digest) if self.digest else str(self.tag)

    @property
    def name(self) -> str:
        """Registry and repository, without tag or digest."""
        return f"{self.registry}/{self.repository}"

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        digest = f"@{self.digest}" if self.digest else ""
        return f"{self.name}{tag}{digest}"


def is_same_source(recorded: str, reference: Reference) -> bool:
    """Whether *recorded*, a reference as text, names the registry and repository of *reference*."""
    if recorded == str(reference):
        return True
    try:
        return Reference.parse(recorded).name == reference.name
    except InvalidInput:
        return False


def _refuse_what_is_no_name(text: str) -> None:
    if not text:
        raise InvalidReference(text, "it is empty")
    if len(text) > _MAX_TEXT:
        raise InvalidReference(text, f"it has more than {_MAX_TEXT} characters")
    if "://" in text:
        raise InvalidReference(text, "it has a URL scheme; leave it out")
    if not text.isascii():
        raise InvalidReference(text, "it has characters outside ASCII; write such a host in its xn-- form")
    if any(c.isspace() or not c.isprintable() for c in text):
        raise InvalidReference(text, "it has blanks or control characters")
    if _IMAGE_ID.fullmatch(text):
        raise InvalidReference(text, "64 hexadecimal digits are an image id, not a name")


def _split_tag(name: str) -> tuple[str, str | None]:
    """Take the tag off: it follows the last colon, unless a slash follows that (then it is a port)."""
    head, colon, tag = name.rpartition(":")
    if not colon or "/" in tag:
        return name, None
    return head, tag


def _split_registry(name: str, text: str) -> tuple[str, str]:
    """Docker's rule: a first component with a dot or a colon, or ``localhost``, is a registry; any other is not."""
    first, slash, rest = name.partition("/")
    if not slash or not ("." in first or ":" in first or first.lower() == "localhost" or first != first.lower()):
        return DOCKER_HUB, name
    return normalise_registry(first, text), rest


def normalise_registry(first: str, text: str) -> str:
    """Return a registry's ``host[:port]`` as `Reference` has it: lower case, without trailing dot or default port.

    Docker Hub has one name. A host of one label keeps its port 443, since without it the name would be one on Docker
    Hub. *text* is what an InvalidReference shows.
    """
    if first.startswith("["):
        raise InvalidReference(text, "IPv6 addresses are not supported; use a host name")
    host, colon, port = first.partition(":")
    host = host.lower().removesuffix(".")
    if not _HOST.fullmatch(host):
        raise InvalidReference(text, "the registry's host is malformed")
    if colon and not (port.isdigit() and len(port) <= 5 and port[0] != "0" and int(port) <= 65535):
        raise InvalidReference(text, "the registry's port is not a number from 1 to 65535")
    if host in _DOCKER_HUB_HOSTS and port in ("", "443"):
        return DOCKER_HUB
    plainly_a_host = "." in host or host == "localhost"
    if colon and not (port == "443" and plainly_a_host):
        return f"{host}:{port}"
    if not plainly_a_host:
        raise InvalidReference(text, "the repository must be lower case, and a registry's host needs a dot or a port")
    return host
