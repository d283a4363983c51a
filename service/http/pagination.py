"""Lists in pages, and the values and URLs that several resources share.

URLs in responses always start with the public URL, whatever the Host header says.
"""

from __future__ import annotations

import base64
import binascii
from datetime import datetime
from typing import Any, Final

from flask import url_for
from marshmallow import Schema, ValidationError, fields, validate

from mirror.records.fields import timestamp
from service.core import core

DIGEST_EXAMPLE: Final = "sha256:4bcff63911fcb4448bd4fdacec207030997caf25e9bea4045fa6c8c44de311d1"
_LARGEST_PAGE: Final = 100
_LONGEST_CURSOR: Final = 1024
NO_CURSOR: Final = "Not a cursor that this API gave out."


class Timestamp(fields.Field[datetime]):
    """RFC 3339 in UTC with milliseconds: ``2026-11-23T21:25:00.123Z``."""

    def _serialize(self, value: datetime | None, *_: Any, **__: Any) -> str | None:
        return None if value is None else timestamp(value)


class Cursor(fields.Field[str]):
    """Where a page begins: the last name of the page before, encoded so that clients do not build cursors."""

    def _serialize(self, value: str | None, *_: Any, **__: Any) -> str | None:
        return None if value is None else _encode_cursor(value)

    def _deserialize(self, value: Any, *_: Any, **__: Any) -> str:
        if not isinstance(value, str) or not 0 < len(value) <= _LONGEST_CURSOR:
            raise ValidationError(NO_CURSOR)
        try:
            padded = value + "=" * (-len(value) % 4)
            decoded = base64.b64decode(padded, altchars=b"-_", validate=True).decode()
        except (binascii.Error, ValueError):
            raise ValidationError(NO_CURSOR) from None
        if not decoded.isprintable() or _encode_cursor(decoded) != value:
            raise ValidationError(NO_CURSOR)
        return decoded


def _encode_cursor(name: str) -> str:
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
    """An operation without query parameters. It refuses any, so that a mistyped option does not act."""


def page_schema(name: str, item: type[Schema]) -> type[Schema]:
    """Return the schema of a page of *item*, shown as *name* in the OpenAPI document."""
    listed = fields.List(fields.Nested(item), required=True)
    following = Cursor(
        required=True, allow_none=True, metadata={"description": "`cursor` of the next page; null at the end."}
    )
    return Schema.from_dict({"items": listed, "next": following}, name=name)


def public_url(endpoint: str, **values: Any) -> str:
    """Return the absolute URL of a view. Values that are None are left out. Others go into its path or its query."""
    given = {name: value for name, value in values.items() if value is not None}
    return core().settings.public_url + url_for(endpoint, **given)


def next_page(endpoint: str, *, after: str | None, **values: Any) -> dict[str, str]:
    """Return the ``Link`` header (RFC 8288) to the page after the name *after*. After the last page it is empty."""
    if after is None:
        return {}
    return {"Link": f'<{public_url(endpoint, **values, cursor=_encode_cursor(after))}>; rel="next"'}
