"""The page that shows ``/openapi.json``, the page of error codes, and the JSON Schema of `mirror.yaml`.

Nothing is loaded from other hosts.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from flask import Blueprint, Response, render_template, send_from_directory

from service.api.docs import error_reference
from service.api.sync_file.json_schema import PATH, mirror_yaml_schema
from service.core import core

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


@DOCUMENTATION.get(PATH)
def sync_file_schema() -> Response:
    """Return the JSON Schema of `mirror.yaml`, for editors."""
    schema = mirror_yaml_schema(core().settings.public_url)
    return Response(schema, content_type="application/schema+json", headers={"Cache-Control": "max-age=3600"})


@DOCUMENTATION.get("/docs/assets/<path:name>")
def asset(name: str) -> Response:
    return send_from_directory(_ASSETS, name, max_age=3600)


def _page(html: str) -> Response:
    response = Response(html, content_type="text/html; charset=utf-8")
    response.headers["Content-Security-Policy"] = CONTENT_SECURITY_POLICY
    return response
