"""URLs in answers: always below the public URL, whatever the Host header says."""

from __future__ import annotations

from typing import Any

from flask import url_for

from service.core import core
from service.http.fields import encode_cursor


def public_url(endpoint: str, **values: Any) -> str:
    """The absolute URL of a view; *values* that are None are left out, those its rule does not name are its query."""
    given = {name: value for name, value in values.items() if value is not None}
    return core().settings.public_url + url_for(endpoint, **given)


def next_page(endpoint: str, *, after: str | None, **values: Any) -> dict[str, str]:
    """The ``Link`` header (RFC 8288) to the page behind the name *after*; nothing if this was the last one."""
    if after is None:
        return {}
    return {"Link": f'<{public_url(endpoint, **values, cursor=encode_cursor(after))}>; rel="next"'}
