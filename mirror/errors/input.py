"""Errors for requests that can never succeed as they are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

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

    def __init__(self, target: str, sources: tuple[str, str] | None = None) -> None:
        which = ""
        if sources:
            which = f": '{sources[0]}' and '{sources[1]}'" if len(set(sources)) > 1 else f": '{sources[0]}' twice"
        super().__init__(f"More than one image of the job has the target '{target}'{which}")


class InvalidTemplate(InvalidInput):
    """A template for the names of targets is malformed, or asks for what the source does not have."""

    code = "TEMPLATE_INVALID"
    hint = (
        "Write it as 'team/{name}:{tag}'. Its fields are {registry}, {repository}, {name}, {tag}, {digest12}, {date}."
    )

    def __init__(self, template: str, reason: str) -> None:
        super().__init__(f"The template {quoted(template)} makes no target: {reason}", reason=reason)


class JobTooLarge(InvalidInput):
    """The images of a job, each with all of its targets, are more than one job may have."""

    code = "JOB_TOO_LARGE"
    hint = "Split the job, or give each image fewer targets."

    def __init__(self, copies: int, limit: int) -> None:
        super().__init__(f"The job has {copies} copies to make, but at most {limit} are allowed")


class TargetsInvalid(InvalidInput):
    """Some of the chosen tags cannot have the targets that the rules give them. All others were added to the job."""

    code = "TARGETS_INVALID"
    hint = "Change the target's template, or leave these tags out with 'deny'. Then POST a new job."

    def __init__(self, source: str, refused: int, first: str) -> None:
        super().__init__(f"{refused} of the chosen tags of '{source}' cannot have their targets. The first is {first}")


class NoRepositoryFound(InvalidInput):
    """A wildcard has no repository. That is never a success, because nothing would be mirrored."""

    code = "NO_REPOSITORY_FOUND"
    hint = "Check the prefix, and whether the credentials may see its repositories."

    def __init__(self, source: str) -> None:
        super().__init__(f"The registry lists no repository for '{source}'")


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


class RegexUnavailable(InvalidInput):
    """RE2 is not installed. No other engine runs an expression of a user, because it could run for years."""

    code = "REGEX_UNAVAILABLE"
    hint = "Write the pattern as a glob, or install google-re2 for the service and the workers."

    def __init__(self) -> None:
        super().__init__("Regular expressions cannot be used: this platform has no build of google-re2")


class SelectionTooLarge(InvalidInput):
    """A selection has more tags, or more bytes to copy, than its rules allow. Nothing of it was copied."""

    code = "SELECTION_TOO_LARGE"
    hint = "Choose fewer tags, for example with 'semver' or 'latest', or raise the limit."

    def __init__(self, source: str, found: int, rule: Literal["max_tags", "max_bytes"], limit: int) -> None:
        what = "tags" if rule == "max_tags" else "bytes to copy"
        super().__init__(f"The selection of '{source}' has {found} {what}, but '{rule}' is {limit}")


class NoTagSelected(InvalidInput):
    """The rules drop every tag of a repository, and waiting will not change that."""

    code = "NO_TAG_SELECTED"
    hint = "Compare the rules with the tags of the repository. A dry run says for each tag which rule drops it."

    def __init__(self, source: str, dropped: Mapping[str, int]) -> None:
        figures = ", ".join(f"'{rule}' dropped {count}" for rule, count in dropped.items())
        found = sum(dropped.values())
        message = (
            f"No tag of '{source}' is selected: of {found} tags, {figures}" if found else f"'{source}' has no tags"
        )
        super().__init__(message)


class TrustedRootUnavailable(InvalidInput):
    """A policy for signatures names a trusted root that the mirror does not have, or cannot read."""

    code = "TRUSTED_ROOT_UNAVAILABLE"
    hint = "Put the trusted root as '<name>.json' into the folder MIRROR_TRUSTED_ROOTS of the service and the workers."

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"The trusted root {quoted(name, 100)} cannot be used: {reason}", reason=reason)


class DocumentMalformed(InvalidInput):
    """A text in YAML or JSON cannot be read, or says what it cannot say. ``line`` and ``column`` count from 1.

    The message has the place, and *path*, the keys that lead to it, such as ``syncs[2].cron``.
    """

    code = "FILE_INVALID"
    hint = "Mend the text at the place that the message names. Nothing of it was applied."

    def __init__(
        self,
        reason: str,
        line: int | None = None,
        column: int | None = None,
        path: str = "",
        *,
        hint: str | None = None,
    ) -> None:
        places = [f"line {line}" if line else "", f"column {column}" if column else "", path]
        place = ", ".join(filter(None, places))
        super().__init__(f"{place}: {reason}" if place else reason, hint=hint, reason=reason)
        self.line = line
        self.column = column
        self.path = path
