"""What marshmallow says of a document, as one sentence for each field that is wrong."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from typing import Any, Final

from marshmallow import Schema, fields
from marshmallow.exceptions import SCHEMA

from mirror.errors import quoted

_SHOWN_NAME: Final = 64
_UNKNOWN: Final = "Unknown field."
"""marshmallow's message for an unknown field. `_unknown` replaces it."""

Path = tuple[str | int, ...]
_Place = Schema | fields.Field[Any] | None


def field_messages(messages: Any, schema: Schema, noun: str = "field") -> Iterator[tuple[Path, str]]:
    """Yield each message with the keys that lead to its field.

    A message about an unknown field names it, the allowed ones, and the one that was probably meant. *noun* is what
    the reader calls a field.
    """
    yield from _walk(messages, schema, (), noun)


def pointer_of(path: Path) -> str:
    """Return the JSON Pointer of a path (RFC 6901)."""
    return "".join(f"/{str(part).replace('~', '~0').replace('/', '~1')}" for part in path)


def _walk(messages: Any, place: _Place, path: Path, noun: str) -> Iterator[tuple[Path, str]]:
    """Walk through messages, which marshmallow nests like the data. *place* is what has read the value at *path*."""
    if isinstance(messages, list):
        for message in messages:
            yield from _walk(message, place, path, noun)
    elif not isinstance(messages, Mapping):
        yield path, str(messages)
    else:
        for name, below in messages.items():
            if name == SCHEMA:
                yield from _walk(below, place, path, noun)
            else:
                yield from _walk_into(below, place, (*path, name), noun)


def _walk_into(messages: Any, place: _Place, path: Path, noun: str) -> Iterator[tuple[Path, str]]:
    """Walk through the messages of the field at the end of *path*. *place* has read what is around it."""
    if messages == [_UNKNOWN]:
        yield path, _unknown(noun, str(path[-1]), place)
    elif isinstance(place, fields.Mapping):
        yield from _walk(messages.get("key", []), None, path, noun)
        yield from _walk(messages.get("value", []), _inside(place.value_field), path, noun)
    else:
        yield from _walk(messages, _below(place, path[-1]), path, noun)


def _below(place: _Place, name: object) -> _Place:
    """Return what reads the value under *name*, None if that is not known."""
    if isinstance(place, Schema):
        return _inside(_by_name(place).get(str(name)))
    return _inside(place.inner) if isinstance(place, fields.List) else None


def _inside(field: fields.Field[Any] | None) -> _Place:
    if isinstance(field, fields.Nested):
        nested: Schema = field.schema
        return nested
    return field


def _unknown(noun: str, name: str, place: _Place) -> str:
    unknown = f"Unknown {noun} {quoted(name, _SHOWN_NAME)}."
    if not isinstance(place, Schema):
        return unknown
    allowed = list(_by_name(place))
    meant = difflib.get_close_matches(name[:_SHOWN_NAME], allowed, n=1)
    question = f" Did you mean '{meant[0]}'?" if meant else ""
    return f"{unknown}{question} Allowed: {', '.join(allowed) or 'none'}."


def _by_name(schema: Schema) -> dict[str, fields.Field[Any]]:
    return {field.data_key or name: field for name, field in schema.load_fields.items()}
