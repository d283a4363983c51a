"""The reference of a source image, and the grammar of repository names and tags."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Self

from mirror.errors import InvalidInput, InvalidReference, InvalidTag
from mirror.oci.digest import Digest

DOCKER_HUB: Final = "docker.io"
DEFAULT_TAG: Final = "latest"
MAX_NAME_LENGTH: Final = 255
"""The most characters of host, slash and repository together that many clients accept (distribution spec)."""
_DOCKER_HUB_HOSTS: Final = frozenset(
    {"docker.io", "index.docker.io", "registry-1.docker.io", "registry.hub.docker.com"}
)
_HOST: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?(?:\.[a-z0-9](?:[a-z0-9-]*[a-z0-9])?)*", re.ASCII)
_IMAGE_ID: Final = re.compile(r"[a-f0-9]{64}", re.ASCII)
_MAX_TEXT: Final = 1024
_REPOSITORY_HINT: Final = (
    "Name one repository, such as 'docker.io/library/alpine', or all below a prefix: 'docker.io/bitnami/*'. To mirror "
    "one image, leave out 'tags'."
)
_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_REPOSITORY: Final = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*", re.ASCII)
_TAG: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}", re.ASCII)
"""The grammar of the distribution spec, "Pulling manifests"."""


@dataclass(frozen=True, slots=True, order=True)
class Reference:
    """A source image, normalised as ``docker pull`` does: ``redis`` is ``docker.io/library/redis:latest``.

    ``registry`` is a lower-case ``host[:port]``, without a trailing dot or the default port 443. ``tag``, ``digest`` or
    both are set. If both are set, the digest decides what is pulled, and the tag is only a name.
    """

    registry: str
    repository: str
    tag: str | None
    digest: Digest | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse what ``docker pull`` accepts (distribution/reference).

        Raises InvalidReference, InvalidTag or InvalidDigest.
        """
        _refuse_other_texts(text)
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
        """What is requested from the registry: the digest if there is one, else the tag."""
        return str(self.digest) if self.digest else str(self.tag)

    @property
    def name(self) -> str:
        """The registry and the repository, without tag or digest."""
        return f"{self.registry}/{self.repository}"

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        digest = f"@{self.digest}" if self.digest else ""
        return f"{self.name}{tag}{digest}"


@dataclass(frozen=True, slots=True, order=True)
class RepositoryPattern:
    """A repository of a source registry, or all of its repositories below a prefix.

    ``docker.io/library/alpine`` is one repository. ``docker.io/bitnami/*`` and ``harbor.example/*`` are all below the
    prefix, at any depth: then ``repository`` is the prefix, without a slash at its end, and may be empty.
    """

    registry: str
    repository: str
    is_wildcard: bool = False

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse a name without tag and digest, or one that ends in ``/*``. Raises InvalidReference."""
        name, slash, star = text.rpartition("/")
        if not slash or star != "*":
            reference = Reference.parse(text)
            if reference.digest or _split_tag(text)[1] is not None:
                raise InvalidReference(text, "it names a tag or a digest, not a repository", hint=_REPOSITORY_HINT)
            return cls(reference.registry, reference.repository)
        if name == DOCKER_HUB:
            raise InvalidReference(text, "nobody can list all of Docker Hub. Name a namespace", hint=_REPOSITORY_HINT)
        if "/" not in name and ("." in name or ":" in name or name.lower() == "localhost"):
            return cls(normalise_registry(name, text), "", is_wildcard=True)
        _refuse_other_texts(text)
        registry, prefix = _split_registry(name if "/" in name else f"{DOCKER_HUB}/{name}", text)
        if problem := repository_problem(prefix):
            raise InvalidReference(text, problem, hint=_REPOSITORY_HINT)
        return cls(registry, prefix, is_wildcard=True)

    @property
    def name(self) -> str:
        """The registry and the repository, or the prefix of a wildcard."""
        return f"{self.registry}/{self.repository}" if self.repository else self.registry

    def tagged(self, tag: str) -> Reference:
        """Return the reference of one tag of the repository."""
        return Reference(self.registry, self.repository, tag)

    def includes(self, repository: str) -> bool:
        """Whether *repository*, of the same registry, is one of these."""
        if not self.is_wildcard:
            return repository == self.repository
        return not self.repository or repository.startswith(f"{self.repository}/")

    def __str__(self) -> str:
        return f"{self.name}/*" if self.is_wildcard else self.name


SourceName = Reference | RepositoryPattern
"""What is asked for at a registry: an image, a repository, or the repositories below a prefix."""


def repository_problem(repository: str) -> str | None:
    """Return what is wrong with a repository name, as a clause, or None."""
    if not repository:
        return "the repository is missing"
    if len(repository) > MAX_NAME_LENGTH:
        return f"the repository has more than {MAX_NAME_LENGTH} characters"
    if _REPOSITORY.fullmatch(repository):
        return None
    if repository != repository.lower():
        return "the repository must be lower case"
    if "" in repository.split("/"):
        return "the repository has an empty component"
    return (
        "the components of a repository are lower-case letters and digits, separated by single '.', "
        "one or two '_', or any number of '-'"
    )


def is_tag(text: str) -> bool:
    return _TAG.fullmatch(text) is not None


def is_same_source(recorded: str, reference: Reference) -> bool:
    """Whether *recorded*, the text of a reference, has the registry and the repository of *reference*."""
    if recorded == str(reference):
        return True
    try:
        return Reference.parse(recorded).name == reference.name
    except InvalidInput:
        return False


def _refuse_other_texts(text: str) -> None:
    """Refuse a text that is not a name, and say what it is."""
    if not text:
        raise InvalidReference(text, "it is empty")
    if len(text) > _MAX_TEXT:
        raise InvalidReference(text, f"it has more than {_MAX_TEXT} characters")
    if "://" in text:
        raise InvalidReference(text, "it has a URL scheme, which must be left out")
    if not text.isascii():
        raise InvalidReference(text, "it has characters outside ASCII. Write such a host in its xn-- form")
    if any(c.isspace() or not c.isprintable() for c in text):
        raise InvalidReference(text, "it has blanks or control characters")
    if _IMAGE_ID.fullmatch(text):
        raise InvalidReference(text, "64 hexadecimal digits are an image id, not a name")


def _split_tag(name: str) -> tuple[str, str | None]:
    """Split the tag off. It follows the last colon, unless a slash follows that colon: then a port does."""
    head, colon, tag = name.rpartition(":")
    if not colon or "/" in tag:
        return name, None
    return head, tag


def _split_registry(name: str, text: str) -> tuple[str, str]:
    """Split the registry off. By Docker's rule it is ``localhost``, or has a dot or a colon."""
    first, slash, rest = name.partition("/")
    if not slash or not ("." in first or ":" in first or first.lower() == "localhost" or first != first.lower()):
        return DOCKER_HUB, name
    return normalise_registry(first, text), rest


def normalise_registry(first: str, text: str) -> str:
    """Return a registry's ``host[:port]`` as `Reference` has it: lower case, without trailing dot or default port.

    All hosts of Docker Hub become one name. A host of one label keeps its port 443: without it, the name would be one
    on Docker Hub. *text* is for the message of InvalidReference.
    """
    if first.startswith("["):
        raise InvalidReference(text, "IPv6 addresses are not supported. Use a host name")
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
