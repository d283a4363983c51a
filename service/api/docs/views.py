"""The page that shows ``/openapi.json``, and the page of error codes. Nothing is loaded from other hosts."""

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
    """Lead browsers from the root to the documentation."""
    return Response(status=302, headers={"Location": "docs"})


@DOCUMENTATION.get("/docs")
def page() -> Response:
    return _page(render_template("docs.html"))


@DOCUMENTATION.get("/docs/errors")
def errors() -> Response:
    """Show every error code. The ``type`` of a problem points here."""
    return _page(render_template("errors.html", groups=error_reference.groups()))


@DOCUMENTATION.get("/docs/assets/<path:name>")
def asset(name: str) -> Response:
    return send_from_directory(_ASSETS, name, max_age=3600)


def _page(html: str) -> Response:
    response = Response(html, content_type="text/html; charset=utf-8")
    response.headers["Content-Security-Policy"] = CONTENT_SECURITY_POLICY
    return response
