"""Read a YAML text of a user: bounded, without tags, and with the place of every key.

The types are those of the core schema of YAML 1.2: ``no``, ``1:30`` and ``2024-01-01`` are texts. JSON is read too. A
key that occurs twice is refused. Anchors, aliases and the merge key ``<<`` are allowed, but what they expand to counts
in the bounds: a "billion laughs" is refused while it is read.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from time import sleep
from typing import Any, Final, NoReturn

import yaml

from mirror.errors import DocumentMalformed, quoted

MOST_BYTES: Final = 2**20
_MOST_NODES: Final = 200_000
"""Keys, texts, lists and mappings of a text, each as often as aliases repeat it."""
_MOST_LEVELS: Final = 40
_MOST_DIGITS: Final = 30
"""A longer number is a text: reading it could take long."""
_STEP: Final = 1000
"""Nodes after which other greenlets run."""
_LOADER: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_NULLS: Final = frozenset({"", "~", "null", "Null", "NULL"})
_BOOLEANS: Final = {word: word.lower() == "true" for word in ("true", "True", "TRUE", "false", "False", "FALSE")}
_INTEGER: Final = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", re.ASCII)
_FLOAT: Final = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", re.ASCII)
_MERGE: Final = "<<"
_TAGS: Final = {
    yaml.ScalarEvent: "tag:yaml.org,2002:str",
    yaml.SequenceStartEvent: "tag:yaml.org,2002:seq",
    yaml.MappingStartEvent: "tag:yaml.org,2002:map",
}
_REASONS: Final = {
    "mapping values are not allowed in this context": "a second ':' is not allowed in this line. Put the value into "
    "quotes, or mend the indentation",
    "could not find expected ':'": "a key without a ':'. Add the colon, or mend the indentation",
    "did not find expected key": "a key was expected here. Mend the indentation, or put the value into quotes",
    "did not find expected '-' indicator": "an item with '-' was expected here. Mend the indentation",
    "did not find expected ',' or ']'": "a list in brackets is not closed",
    "did not find expected ',' or '}'": "a mapping in braces is not closed",
    "found unexpected end of stream": "the text ends within quotes",
    "found character that cannot start any token": "no value begins with this character. Replace a tab by blanks, or "
    "put the value into quotes",
    "block sequence entries are not allowed in this context": "a list cannot begin in this line. Begin it in the next",
    "did not find expected alphabetic or numeric character": "a '*' begins an alias here, and a '&' an anchor. Put the "
    "value into quotes",
    "found unknown escape character": "this backslash escapes nothing. Write the text in single quotes",
}
"""What libyaml says of the usual mistakes, and how it is said to the user."""

Scalar = str | int | float | bool | None


@dataclass(frozen=True, slots=True)
class Node:
    """A value of a YAML text and its place: that of its key in a mapping, else its own. Both count from 1.

    *value* is a scalar, a tuple of nodes, or a mapping from keys to nodes. *text* is a scalar as it was written: a tag
    ``1.10`` has the value 1.1. A node may hold a secret, so its ``repr`` shows the place only.
    """

    value: Scalar | tuple[Node, ...] | Mapping[str, Node] = field(repr=False)
    text: str = field(repr=False)
    line: int
    column: int
    size: int = field(default=1, repr=False)
    height: int = field(default=1, repr=False)

    @property
    def kind(self) -> str:
        """What a person calls the type of the value."""
        names = {dict: "a mapping", tuple: "a list", str: "a text", bool: "true or false", type(None): "nothing"}
        return names.get(type(self.value), "a number")

    def plain(self) -> Any:
        """Return the value with everything in it as JSON has it: dicts, lists, texts, numbers, booleans and None."""
        if isinstance(self.value, Mapping):
            return {key: node.plain() for key, node in self.value.items()}
        return [node.plain() for node in self.value] if isinstance(self.value, tuple) else self.value

    def at(self, path: Sequence[str | int]) -> Node:
        """Return the node at *path*, such as ``("syncs", 0, "name")``, or the nearest one around it."""
        node = self
        for step in path:
            inner: Node | None = None
            if isinstance(node.value, Mapping):
                inner = node.value.get(str(step))
            elif isinstance(node.value, tuple) and isinstance(step, int) and 0 <= step < len(node.value):
                inner = node.value[step]
            if inner is None:
                break
            node = inner
        return node


def read_yaml(text: str) -> Node:
    """Read a text with one document. An empty text is the value None. Raises DocumentMalformed."""
    documents = read_yaml_stream(text)
    if len(documents) > 1:
        raise DocumentMalformed("a second document begins here", documents[1].line, documents[1].column)
    return documents[0]


def read_yaml_stream(text: str) -> tuple[Node, ...]:
    """Read the documents of a text, which ``---`` separates. There is at least one. Raises DocumentMalformed."""
    if len(text) > MOST_BYTES or len(text.encode(errors="surrogatepass")) > MOST_BYTES:
        raise DocumentMalformed(f"the text has more than {MOST_BYTES >> 20} MiB", hint="Split it into several.")
    try:
        documents = tuple(_Composer(yaml.parse(text, _LOADER)).documents())
    except UnicodeEncodeError as error:
        line = text.count("\n", 0, error.start) + 1
        raise DocumentMalformed("half of a surrogate pair is no character", line) from None
    except yaml.reader.ReaderError:
        raise DocumentMalformed("the text has a control character, or another one that YAML forbids") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        reason = _REASONS.get(error.problem, "this is no YAML. Mend the indentation, quotes or brackets")
        place = (mark.line + 1, mark.column + 1) if mark else (None, None)
        raise DocumentMalformed(reason, *place) from None
    return documents or (Node(None, "", 1, 1),)


class _Composer:
    """Builds nodes from the events of a parser, and counts them as it goes."""

    def __init__(self, events: Iterator[Any]) -> None:
        self._events = events
        self._anchors: dict[str, Node | None] = {}
        self._count = 0

    def documents(self) -> Iterator[Node]:
        for event in self._events:
            if isinstance(event, yaml.DocumentStartEvent):
                self._anchors.clear()
                yield self._node(next(self._events), 1)

    def _node(self, event: Any, level: int) -> Node:
        """Build the node that begins with *event*."""
        if isinstance(event, yaml.AliasEvent):
            return self._aliased(event, level)
        self._add(event, 1, level)
        if event.tag not in (None, "!", _TAGS[type(event)]):
            _refuse(event, "a tag is not supported here. Leave out the '!' and its word, or put the text into quotes")
        if event.anchor:
            self._anchors[event.anchor] = None
        if isinstance(event, yaml.ScalarEvent):
            is_plain = event.tag is None and event.implicit[0]
            node = Node(scalar_of(event.value) if is_plain else event.value, event.value, *_place(event))
        elif isinstance(event, yaml.SequenceStartEvent):
            node = self._list(event, level)
        else:
            node = self._mapping(event, level)
        if event.anchor:
            self._anchors[event.anchor] = node
        return node

    def _list(self, start: Any, level: int) -> Node:
        items: list[Node] = []
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            items.append(self._node(event, level + 1))
        return _around(start, tuple(items), items)

    def _mapping(self, start: Any, level: int) -> Node:
        entries: dict[str, Node] = {}
        merged: list[Mapping[str, Node]] = []
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            key = self._key(event, level)
            line, column = _place(event)
            node = replace(self._node(next(self._events), level + 1), line=line, column=column)
            if key == _MERGE and event.implicit[0]:
                merged += self._merged(event, node, level)
            elif first := entries.get(key):
                _refuse(event, f"the key {quoted(key, 60)} is in line {first.line} already")
            else:
                entries[key] = node
        for one in merged:
            entries = {**one, **entries}
        return _around(start, entries, list(entries.values()))

    def _key(self, event: Any, level: int) -> str:
        if not isinstance(event, yaml.ScalarEvent):
            _refuse(event, "a key must be a plain text, not an alias, a list or a mapping")
        key: str = self._node(event, level + 1).text
        if not key:
            _refuse(event, "a key is empty")
        return key

    def _merged(self, event: Any, node: Node, level: int) -> list[Mapping[str, Node]]:
        """Return the mappings of a merge key. An earlier one overrides a later one."""
        mappings: list[Mapping[str, Node]] = []
        for one in node.value if isinstance(node.value, tuple) else (node,):
            if not isinstance(one.value, Mapping):
                _refuse(event, "the merge key '<<' takes a mapping, or a list of mappings")
            self._add(event, one.size, level + one.height - 1)
            mappings.append(one.value)
        return mappings

    def _aliased(self, event: Any, level: int) -> Node:
        if event.anchor not in self._anchors:
            _refuse(event, f"there is no anchor {quoted(event.anchor, 60)} before this alias")
        node = self._anchors[event.anchor]
        if node is None:
            _refuse(event, f"the alias is within what its anchor {quoted(event.anchor, 60)} names")
        self._add(event, node.size, level + node.height - 1)
        line, column = _place(event)
        return replace(node, line=line, column=column)

    def _add(self, event: Any, nodes: int, level: int) -> None:
        """Count *nodes* more, of which the deepest is at *level*."""
        before, self._count = self._count, self._count + nodes
        if self._count > _MOST_NODES:
            _refuse(event, f"the text has, with its aliases expanded, more than {_MOST_NODES} values")
        if level > _MOST_LEVELS:
            _refuse(event, f"more than {_MOST_LEVELS} lists and mappings are nested")
        if before // _STEP != self._count // _STEP:
            sleep(0)


def _around(start: Any, value: tuple[Node, ...] | dict[str, Node], inner: list[Node]) -> Node:
    """Make the node of a list or of a mapping."""
    height = max((one.height for one in inner), default=0) + 1
    return Node(value, "", *_place(start), size=sum(one.size for one in inner) + 1, height=height)


def scalar_of(text: str) -> Scalar:
    """Return the value of a scalar without quotes. What JSON cannot hold, such as ``.inf``, stays a text."""
    if text in _NULLS:
        return None
    if text in _BOOLEANS:
        return _BOOLEANS[text]
    if _INTEGER.fullmatch(text) and len(text) <= _MOST_DIGITS:
        return int(text, 0 if text.startswith(("0o", "0x")) else 10)
    if _FLOAT.fullmatch(text) and len(text) <= _MOST_DIGITS and math.isfinite(number := float(text)):
        return number
    return text


def _place(event: Any) -> tuple[int, int]:
    return event.start_mark.line + 1, event.start_mark.column + 1


def _refuse(event: Any, reason: str) -> NoReturn:
    raise DocumentMalformed(reason, *_place(event))
