"""How the fields of a record are stored in a Redis hash: as text.

An empty text means None.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from marshmallow import EXCLUDE, Schema, fields

MOST: Final = 2**53
"""The largest count. Redis' scripts and every reader of JSON can hold it exactly."""


class RecordSchema(Schema):
    """A flat hash. Fields that a newer release has written are ignored."""

    class Meta:
        unknown = EXCLUDE


class Text(fields.Field[str | None]):
    """A text, or None for an empty one."""

    def _serialize(self, value: str | None, *_: Any, **__: Any) -> str:
        return value or ""

    def _deserialize(self, value: str, *_: Any, **__: Any) -> str | None:
        return value or None


class Flag(fields.Field[bool]):
    """``1``, or empty."""

    def _serialize(self, value: bool | None, *_: Any, **__: Any) -> str:
        return "1" if value else ""

    def _deserialize(self, value: str, *_: Any, **__: Any) -> bool:
        return value == "1"


class Json(fields.Field[Any]):
    """A JSON value, or None for an empty text."""

    def _serialize(self, value: Any, *_: Any, **__: Any) -> str:
        return "" if value is None else json.dumps(value)

    def _deserialize(self, value: str, *_: Any, **__: Any) -> Any:
        return json.loads(value) if value else None


class Count(fields.Field[int]):
    """A whole number of things or bytes, 0 if the field is absent.

    A number out of bounds reads as the nearest one within them.
    """

    def __init__(self, **more: Any) -> None:
        super().__init__(**{"load_default": 0, **more})

    def _serialize(self, value: int | None, *_: Any, **__: Any) -> str:
        return "" if value is None else str(value)

    def _deserialize(self, value: Any, *_: Any, **__: Any) -> int:
        try:
            number = int(value) if not isinstance(value, str) or value.isdecimal() else float(value)
        except (ValueError, TypeError, OverflowError):
            return 0
        return int(min(number, MOST)) if number > 0 else 0


class Moment(fields.Field[datetime | None]):
    """Milliseconds since the epoch by Redis' clock, as an aware UTC datetime."""

    def _serialize(self, value: datetime | None, *_: Any, **__: Any) -> str:
        return str(int(value.timestamp() * 1000)) if value else ""

    def _deserialize(self, value: str, *_: Any, **__: Any) -> datetime | None:
        return at(int(float(value))) if value else None


def record_fields(dumped: Mapping[str, Any]) -> dict[str, str]:
    """Return dumped fields as texts: cjson would turn a large number into ``1e+12``."""
    return {name: "" if value is None else str(value) for name, value in dumped.items()}


def at(milliseconds: int) -> datetime:
    """Return the moment *milliseconds* after the epoch."""
    return datetime.fromtimestamp(milliseconds / 1000, UTC)


def timestamp(moment: datetime) -> str:
    """Return RFC 3339 in UTC with milliseconds, as the API shows a time."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
