"""The grammar of repository names and tags, shared by both kinds of name (distribution spec, "Pulling manifests")."""

from __future__ import annotations

import re
from typing import Final

MAX_NAME_LENGTH: Final = 255
"""Host, slash and repository together: what many clients take at most (distribution spec)."""

_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_REPOSITORY: Final = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*", re.ASCII)
_TAG: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}", re.ASCII)


def repository_problem(repository: str) -> str | None:
    """Why *repository* is no legal repository name, as the end of a sentence; None if it is one."""
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
