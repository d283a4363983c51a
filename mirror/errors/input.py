"""Errors for requests that can never succeed as they are."""

from __future__ import annotations

from mirror.errors.base import MirrorError, quoted


class InvalidInput(MirrorError):
    """The request names something that cannot exist, or that is not allowed."""

    status = 422


class InvalidReference(InvalidInput):
    """A reference or a repository name breaks the grammar. ``reason`` says where."""

    code = "NAME_INVALID"
    hint = "Write it as 'docker pull' accepts it, for example 'redis:7' or 'gcr.io/project/image:1.0'."

    def __init__(self, text: str, reason: str, *, hint: str | None = None) -> None:
        super().__init__(f"{quoted(text)} is not a valid image reference: {reason}", hint=hint, reason=reason)


class InvalidTag(InvalidInput):
    code = "TAG_INVALID"
    hint = "A tag has at most 128 letters, digits, '_', '.' and '-', and does not start with '.' or '-'."

    def __init__(self, text: str) -> None:
        super().__init__(f"{quoted(text)} is not a valid tag")


class InvalidDigest(InvalidInput):
    code = "DIGEST_INVALID"
    hint = "A digest is 'sha256:' and 64 lower-case hexadecimal digits, or 'sha512:' and 128."

    def __init__(self, text: str) -> None:
        super().__init__(f"{quoted(text)} is not a valid digest")


class NameTooLong(InvalidInput):
    code = "NAME_TOO_LONG"
    hint = "Choose a shorter target. Many clients accept at most 255 characters of host and repository."

    def __init__(self, name: str, limit: int) -> None:
        super().__init__(f"The name {quoted(name)} has {len(name)} characters, but clients accept only {limit}")


class TargetReserved(InvalidInput):
    """The target's name is reserved for another registry, or for Docker Hub's official images."""

    code = "TARGET_RESERVED"
    hint = "Choose a target whose first component does not look like a registry's host."

    def __init__(self, repository: str, owner: str, source: str, *, hint: str | None = None) -> None:
        super().__init__(
            f"The target '{repository}' is reserved for images from '{owner}', but the source is '{source}'", hint=hint
        )


class TargetRepeated(InvalidInput):
    """Two images of one job have the same target. Which of them it would get is undefined."""

    code = "TARGET_REPEATED"
    hint = "Give each image of a job its own target."

    def __init__(self, target: str) -> None:
        super().__init__(f"More than one image of the job has the target '{target}'")


class ClientUnknown(InvalidInput):
    """The mirror has no configuration for a container client of this name."""

    code = "CLIENT_UNKNOWN"
    status = 404
    hint = "The clients are containerd, docker, podman, cri-o and kubernetes."

    def __init__(self, client: str) -> None:
        super().__init__(f"There is no configuration for a client {quoted(client, 64)}")


class FallbackUnavoidable(InvalidInput):
    """The client always asks the original registry after a mirror that fails."""

    code = "FALLBACK_UNAVOIDABLE"
    hint = "Leave out 'fallback=false', and block the node's connections to Docker Hub."

    def __init__(self, client: str) -> None:
        super().__init__(f"{client} cannot be kept from its original registry by configuration")
