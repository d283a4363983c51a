"""What a path below ``/v2/`` asks for.

A repository may be called ``team/blobs/app``, so a path is read from its end: the last part is a tag or a digest, the
one before it says of what, and all the rest is the repository.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from mirror.errors import InvalidReference
from mirror.oci.names import repository_problem

Kind = Literal["manifests", "blobs", "tags"]
_KINDS: Final[dict[str, Kind]] = {"manifests": "manifests", "blobs": "blobs", "tags": "tags"}


@dataclass(frozen=True, slots=True)
class Asked:
    """A legal repository name, and of what is asked for: a tag or a digest, not yet parsed; ``list`` for tags."""

    repository: str
    kind: Kind
    name: str


def parse(path: str) -> Asked | None:
    """None for a path that the API does not have; raises InvalidReference for a repository that cannot be."""
    head, _, name = path.rpartition("/")
    repository, _, last = head.rpartition("/")
    kind = _KINDS.get(last)
    if kind is None or not name or (kind == "tags" and name != "list"):
        return None
    if problem := repository_problem(repository):
        raise InvalidReference(repository, problem)
    return Asked(repository, kind, name)
