"""The error classes, for tests that compare them with the documentation."""

from __future__ import annotations

from mirror.errors import MirrorError


def every_error() -> list[type[MirrorError]]:
    """Return all error classes that have a code of their own, in the order of the tree."""
    found: list[type[MirrorError]] = []

    def walk(cls: type[MirrorError]) -> None:
        for child in cls.__subclasses__():
            if "code" in vars(child):
                found.append(child)
            walk(child)

    walk(MirrorError)
    return found
