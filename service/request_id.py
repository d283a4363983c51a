"""One id per request: on every log line, in every problem, and echoed to the client."""

from __future__ import annotations

import re
import secrets
from typing import Final

import structlog
from flask import Flask, Response, g, request

HEADER: Final = "X-Request-Id"
_SANE: Final = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)


def register(app: Flask) -> None:
    """The client's own id is taken over if it is harmless in a log and a header, so that it can be followed."""
    app.before_request(_begin)
    app.after_request(_echo)


def current() -> str:
    """The id of the request that is being answered."""
    return str(g.request_id)


def _begin() -> None:
    given = request.headers.get(HEADER, "")
    g.request_id = given if _SANE.fullmatch(given) else secrets.token_hex(8)
    structlog.contextvars.clear_contextvars()
    structlog.contextvars.bind_contextvars(request_id=g.request_id)


def _echo(response: Response) -> Response:
    response.headers[HEADER] = current()
    return response
