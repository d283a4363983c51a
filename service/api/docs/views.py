"""``/openapi.json``, the page that shows it, and the page of error codes. Nothing is loaded from elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from flask import Blueprint, Response, render_template, send_from_directory

from service.api.docs import error_reference

DOCUMENTATION: Final = Blueprint("documentation", __name__, template_folder="templates", static_folder=None)
_ASSETS: Final = Path(__file__).parent / "static"
CONTENT_SECURITY_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


@DOCUMENTATION.get("/")
def root() -> Response:
    """For those who open the mirror in a browser."""
    return Response(status=302, headers={"Location": "docs"})


@DOCUMENTATION.get("/docs")
def page() -> Response:
    return _page(render_template("docs.html"))


@DOCUMENTATION.get("/docs/errors")
def errors() -> Response:
    """Every code an answer or a job can have, once; what ``type`` of a problem points at."""
    return _page(render_template("errors.html", groups=error_reference.groups()))


@DOCUMENTATION.get("/docs/assets/<path:name>")
def asset(name: str) -> Response:
    return send_from_directory(_ASSETS, name, max_age=3600)


def _page(html: str) -> Response:
    response = Response(html, content_type="text/html; charset=utf-8")
    response.headers["Content-Security-Policy"] = CONTENT_SECURITY_POLICY
    return response
