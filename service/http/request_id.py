"""Give each request an id: in every problem, on every log line of the request, and in the answer's header.

`AccessLog` begins it before the application is called. The connection's `Worker` ends it after the last byte. So lines
about a broken stream have it too, and lines of the next request do not.
"""

from __future__ import annotations

import re
import secrets
from typing import TYPE_CHECKING, Final

import structlog
from flask import Flask, Response, g, request

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

HEADER: Final = "X-Request-Id"
_VARIABLE: Final = "HTTP_X_REQUEST_ID"
_CHOSEN: Final = "mirror.request_id"
_SANE: Final = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)


def register(app: Flask) -> None:
    app.before_request(_take_over)
    app.after_request(_echo)


def current() -> str:
    """Return the id of the current request."""
    return str(g.request_id)


def begin(environ: WSGIEnvironment) -> str:
    """Choose the request's id and bind it to the log lines of this greenlet. Return it.

    The client's own id is used if it is harmless in a log and in a header, so that a request can be followed.
    """
    given = environ.get(_VARIABLE, "")
    chosen = given if _SANE.fullmatch(given) else secrets.token_hex(8)
    environ[_CHOSEN] = chosen
    structlog.contextvars.clear_contextvars()
    structlog.contextvars.bind_contextvars(request_id=chosen)
    return chosen


def of(environ: WSGIEnvironment) -> str:
    """Return the id of a request. Without `AccessLog`, as in tests, it begins here."""
    return str(environ.get(_CHOSEN) or begin(environ))


def end() -> None:
    """Unbind the id: log lines that follow do not belong to the request."""
    structlog.contextvars.clear_contextvars()


def _take_over() -> None:
    """Make the id available to views."""
    g.request_id = of(request.environ)


def _echo(response: Response) -> Response:
    response.headers[HEADER] = current()
    return response
