"""What an import reads, and what it says about each key that it cannot honour.

A `Section` notes which of its keys were read. When it is closed, each other key is reported: with the reason in the
format's table of ignored keys, or as unknown. So no key is dropped silently.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from mirror.errors import DocumentMalformed, quoted
from mirror.schedules.yaml_reader import Node

_MOST_FINDINGS: Final = 5000
_LONGEST_KEY: Final = 100
"""Characters of a key that a path shows."""
_LONGEST_TEXT: Final = 2000
_SIMPLE_KEY: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*", re.ASCII)
_TEMPLATE: Final = re.compile(r"\{\{|\$\{")
_FLAGS: Final = {"y": True, "yes": True, "on": True, "n": False, "no": False, "off": False}
"""Texts that readers of YAML 1.1 take for booleans."""
NO_CREDENTIALS: Final = (
    "Credentials of {registry} are not imported. Put them into the file of MIRROR_DOCKER_CONFIG: "
    "docs/reference/settings.md#credentials-for-sources."
)
NO_CERTIFICATES: Final = (
    "Certificates for {registry} are files on the mirror's host: docs/reference/settings.md#certificates."
)
NO_SETTINGS: Final = "An import sets nothing for a registry. What {registry} needs is in docs/reference/settings.md."
NO_UPLOADS: Final = "It is about uploads to a registry. The mirror writes into its own bucket."
PLAIN_HTTP: Final = "If {registry} speaks plain HTTP, name it in MIRROR_INSECURE_REGISTRIES."
_UNKNOWN: Final = "This key is unknown, and has no effect. Check its spelling and its indentation."


@dataclass(frozen=True, slots=True)
class Ignored:
    """A key of the input that has no effect, or an entry that became no schedule. *reason* also says what to do."""

    path: str
    line: int | None
    reason: str


@dataclass(frozen=True, slots=True)
class Imported:
    """What became of a text: schedules, each as the API takes it, and what is said about the rest.

    *ignored* are keys without an effect. *refused* are entries that made no schedule. *notes* are about all of them.
    """

    schedules: tuple[dict[str, Any], ...]
    ignored: tuple[Ignored, ...] = ()
    refused: tuple[Ignored, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Place:
    """Where a value stands: its path, such as ``sync[2].ratelimit.min``, its line and its column."""

    path: str
    line: int
    column: int

    def malformed(self, reason: str) -> DocumentMalformed:
        """Return the error for this place."""
        return DocumentMalformed(reason, self.line, self.column, self.path)


class Report:
    """Collects what an import says about its input.

    *ignored_keys* are the known keys without an effect, and why. A list in a path is ``[]``, and any key is ``*``, as
    in ``sync[].backup`` and ``*.cert-dir``. In a reason, ``{registry}`` stands for the registry it is about.
    """

    def __init__(self, ignored_keys: Mapping[str, str]) -> None:
        self._reasons = ignored_keys
        self._ignored: list[Ignored] = []
        self._refused: list[Ignored] = []
        self.notes: dict[str, None] = {}

    @property
    def findings(self) -> tuple[tuple[Ignored, ...], tuple[Ignored, ...]]:
        """The ignored keys, and the refused entries."""
        return tuple(self._ignored), tuple(self._refused)

    def ignore(self, path: str, line: int, reason: str) -> None:
        """Say that a key has no effect."""
        self._add(self._ignored, Ignored(path, line, reason))

    def note(self, sentence: str) -> None:
        """Say something about the whole import, once."""
        self.notes[sentence] = None

    def refuse(self, error: DocumentMalformed) -> None:
        """Say that an entry makes no schedule."""
        reason = error.reason[:1].upper() + error.reason[1:].removesuffix(".")
        self._add(self._refused, Ignored(error.path, error.line, f"{reason}."))

    def _add(self, found: list[Ignored], one: Ignored) -> None:
        found.append(one)
        if len(found) > _MOST_FINDINGS:
            reason = f"more than {_MOST_FINDINGS} keys or entries have no effect. Is it a text of this format?"
            raise DocumentMalformed(reason, one.line)

    @contextmanager
    def entry(self) -> Iterator[None]:
        """Read one entry. If it is malformed it is refused, and the other entries are read nevertheless.

        An error without a path is about the whole text, and is raised on.
        """
        try:
            yield
        except DocumentMalformed as error:
            if not error.path:
                raise
            self.refuse(error)

    def leave(self, node: Node, path: str, pattern: str, registry: str = "this registry") -> None:
        """Say of a value, and of each in it that has a reason of its own, that it has no effect."""
        if reason := self._reasons.get(pattern):
            self.ignore(path, node.line, reason.replace("{registry}", registry))
        elif isinstance(node.value, Mapping) and self._has_reasons(f"{pattern}."):
            for key, inner in node.value.items():
                self.leave(inner, join_path(path, key), self.pattern_of(pattern, key), registry)
        elif isinstance(node.value, tuple) and self._has_reasons(f"{pattern}[]"):
            for index, inner in enumerate(node.value):
                self.leave(inner, f"{path}[{index}]", f"{pattern}[]", registry)
        else:
            self.ignore(path, node.line, _UNKNOWN)

    def pattern_of(self, parent: str, key: str) -> str:
        """Return the pattern of a key: with its name, or with ``*`` if only that has a reason."""
        own, any_key = join_path(parent, key), join_path(parent, "*")
        has_own = own in self._reasons or self._has_reasons(f"{own}.") or self._has_reasons(f"{own}[]")
        return any_key if any_key in self._reasons and not has_own else own

    def _has_reasons(self, prefix: str) -> bool:
        return any(pattern.startswith(prefix) for pattern in self._reasons)


class Section:
    """A mapping of the input. It notes which keys were read.

    A value of another type than was asked for raises DocumentMalformed. No message repeats a value.
    """

    def __init__(self, node: Node, path: str, pattern: str, report: Report) -> None:
        self.place = Place(path, node.line, node.column)
        if not isinstance(node.value, Mapping):
            raise self.place.malformed(f"a mapping is expected here, not {node.kind}")
        self._entries = node.value
        self._unread = dict(node.value)
        self._pattern = pattern
        self._report = report

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys, in the order of the text."""
        return tuple(self._entries)

    def place_of(self, key: str) -> Place:
        """Return the place of a key, or that of the section if it is absent."""
        node = self._entries.get(key)
        path = join_path(self.place.path, key)
        return Place(path, node.line, node.column) if node else Place(path, self.place.line, self.place.column)

    def look(self, key: str) -> Node:
        """Return the value of a key, nothing if it is absent. That does not count as reading it."""
        return self._entries.get(key, Node(None, "", self.place.line, self.place.column))

    def take(self, key: str) -> Node | None:
        """Return the value of a key, and note that it was read. None if it is absent or null."""
        self._unread.pop(key, None)
        node = self._entries.get(key)
        return None if node is None or node.value is None else node

    def text(self, key: str) -> str | None:
        """Return a text as it was written, None if it is absent or empty."""
        node = self.take(key)
        return _text(node, self.place_of(key)) or None if node else None

    def required(self, key: str) -> str:
        """Return a text that must be there."""
        found = self.text(key)
        if found is None:
            raise self.place_of(key).malformed(f"the key {quoted(key, _LONGEST_KEY)} is missing or empty")
        return found

    def flag(self, key: str) -> bool | None:
        """Return a boolean, None if it is absent."""
        node = self.take(key)
        if node is None:
            return None
        found = _FLAGS.get(node.value.lower()) if isinstance(node.value, str) else node.value
        if not isinstance(found, bool):
            raise self.place_of(key).malformed("true or false is expected here")
        return found

    def number(self, key: str) -> int | None:
        """Return a whole number that is not negative, None if it is absent."""
        node = self.take(key)
        if node is None:
            return None
        if isinstance(node.value, bool) or not isinstance(node.value, int) or node.value < 0:
            raise self.place_of(key).malformed("a whole number is expected here")
        return node.value

    def items(self, key: str, most: int | None = None) -> list[tuple[Node, str]]:
        """Return the values of a list with their paths. With *most*, a longer list is malformed."""
        node = self.take(key)
        if node is None:
            return []
        place = self.place_of(key)
        if not isinstance(node.value, tuple):
            raise place.malformed(f"a list is expected here, not {node.kind}")
        if most is not None and len(node.value) > most:
            raise place.malformed(f"the list has {len(node.value)} items, and at most {most} are allowed")
        return [(item, f"{place.path}[{index}]") for index, item in enumerate(node.value)]

    def texts(self, key: str, most: int | None = None) -> list[str]:
        """Return a list of texts. Empty if it is absent. With *most*, a longer one is malformed."""
        return [_text(item, Place(path, item.line, item.column)) for item, path in self.items(key, most)]

    def section(self, key: str, pattern: str | None = None) -> Section:
        """Return the mapping at a key. It is empty if the key is absent."""
        place = self.place_of(key)
        node = self.take(key) or Node({}, "", place.line, place.column)
        return Section(node, place.path, join_path(self._pattern, pattern or key), self._report)

    def sections(self, key: str, most: int | None = None) -> Iterator[Section]:
        """Yield the mappings of a list. With *most*, a longer one is malformed."""
        pattern = f"{join_path(self._pattern, key)}[]"
        for item, path in self.items(key, most):
            yield Section(item, path, pattern, self._report)

    def ignore(self, key: str, reason: str) -> None:
        """Say why a key has no effect, if it is there."""
        if key in self._entries:
            self._unread.pop(key, None)
            place = self.place_of(key)
            self._report.ignore(place.path, place.line, reason)

    def close(self, registry: str = "this registry") -> None:
        """Report the keys that were not read."""
        for key, node in self._unread.items():
            pattern = self._report.pattern_of(self._pattern, key)
            self._report.leave(node, join_path(self.place.path, key), pattern, registry)
        self._unread.clear()


def join_path(path: str, key: str) -> str:
    """Return the path of a key in the mapping at *path*."""
    if key == "*" or (len(key) <= _LONGEST_KEY and _SIMPLE_KEY.fullmatch(key)):
        return f"{path}.{key}" if path else key
    return f"{path}[{quoted(key, _LONGEST_KEY)}]"


def _text(node: Node, place: Place) -> str:
    if isinstance(node.value, Mapping | tuple | bool):
        raise place.malformed(f"a text is expected here, not {node.kind}")
    if len(node.text) > _LONGEST_TEXT:
        raise place.malformed(f"the text has more than {_LONGEST_TEXT} characters")
    if _TEMPLATE.search(node.text):
        reason = "the value has a template or a variable, and an import fills in none. Write the text itself"
        raise place.malformed(reason)
    return node.text
