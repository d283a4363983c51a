"""Kinds of values that several bodies have."""

from __future__ import annotations

import base64
import binascii
from datetime import datetime
from typing import Any, Final

from marshmallow import Schema, ValidationError, fields, validate

from mirror.records.fields import timestamp

DIGEST_EXAMPLE: Final = "sha256:4bcff63911fcb4448bd4fdacec207030997caf25e9bea4045fa6c8c44de311d1"
_LARGEST_PAGE: Final = 100
_LONGEST_CURSOR: Final = 1024
NO_CURSOR: Final = "Not a cursor that this API gave out."


class Timestamp(fields.Field[datetime]):
    """RFC 3339 in UTC with milliseconds: ``2026-11-23T21:25:00.123Z``."""

    def _serialize(self, value: datetime | None, *_: Any, **__: Any) -> str | None:
        return None if value is None else timestamp(value)


class Cursor(fields.Field[str]):
    """Where a page begins: the last name of the page before, encoded so that nobody is tempted to make one up."""

    def _serialize(self, value: str | None, *_: Any, **__: Any) -> str | None:
        return None if value is None else encode_cursor(value)

    def _deserialize(self, value: Any, *_: Any, **__: Any) -> str:
        if not isinstance(value, str) or not 0 < len(value) <= _LONGEST_CURSOR:
            raise ValidationError(NO_CURSOR)
        try:
            padded = value + "=" * (-len(value) % 4)
            decoded = base64.b64decode(padded, altchars=b"-_", validate=True).decode()
        except (binascii.Error, ValueError):
            raise ValidationError(NO_CURSOR) from None
        if not decoded.isprintable() or encode_cursor(decoded) != value:
            raise ValidationError(NO_CURSOR)
        return decoded


def encode_cursor(name: str) -> str:
    return base64.urlsafe_b64encode(name.encode()).decode().rstrip("=")


class PageQuery(Schema):
    """The parameters of every list."""

    limit = fields.Integer(
        load_default=20,
        validate=validate.Range(1, _LARGEST_PAGE),
        metadata={"description": "At most so many items."},
    )
    cursor = Cursor(
        load_default=None,
        metadata={"description": "`next` of the page before; leave it out for the first page."},
    )


class NoParameters(Schema):
    """An operation without query parameters: any is refused, so that a mistyped option does not act."""
