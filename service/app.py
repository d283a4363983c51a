"""The application: one factory, no global state."""

from __future__ import annotations

from typing import Any, Final

import flask_smorest
from flask import Flask, Response, request
from flask.json.provider import DefaultJSONProvider
from werkzeug.exceptions import HTTPException

import mirror
from mirror.errors import MirrorError
from service.api.client_config.views import CLIENT_CONFIG
from service.api.docs.views import DOCUMENTATION
from service.api.health.views import HEALTH
from service.api.images.views import IMAGES
from service.api.jobs.views import JOBS
from service.api.plans.views import PLANS
from service.api.repositories.views import REPOSITORIES
from service.api.schedules.views import SCHEDULES
from service.api.sync_file.views import SYNC_FILE
from service.core import Service
from service.http import request_id
from service.http.auth import is_distribution_path
from service.http.problems import Failure, RequestError, problem_response
from service.v2.redirects import KnownRedirects
from service.v2.routes import API_VERSION, DISTRIBUTION, distribution_error

_HARDENING: Final = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
}
MAX_BODY: Final = 64 * 1024
"""Bytes. A few names fit. A schema whose body may be larger says so in `max_body`."""
_OPENAPI: Final[dict[str, Any]] = {
    "API_TITLE": "Image Mirror",
    "API_VERSION": mirror.__version__,
    "OPENAPI_VERSION": "3.1.0",
    "OPENAPI_URL_PREFIX": "/",
    "API_SPEC_OPTIONS": {
        "info": {
            "description": "Keeps the container images a company depends on in its own S3 bucket. "
            "Images are pulled from `/v2`, which is the OCI distribution API and is not described here.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "security": [{"token": []}],
    },
}


def create_app(service: Service) -> Flask:
    """Return the application of *service*. It opens no connection by itself."""
    app = Flask("service", static_folder=None)
    service.install(app)
    app.config.update(_OPENAPI, MAX_CONTENT_LENGTH=MAX_BODY)
    app.url_map.merge_slashes = False  # '//' in a name is an error to name, not a redirect
    if isinstance(app.json, DefaultJSONProvider):
        app.json.sort_keys = False
    request_id.register(app)
    app.before_request(service.auth.require_token)
    app.after_request(_harden)
    _register_resources(app)
    for kind in (MirrorError, RequestError, HTTPException, Exception):
        app.register_error_handler(kind, _error_response)
    if service.core.settings.redirects_blobs:
        headers = {**_HARDENING, **API_VERSION}
        app.wsgi_app = KnownRedirects(app.wsgi_app, service, headers)  # type: ignore[method-assign]  # as Flask wraps it
    return app


def _register_resources(app: Flask) -> None:
    app.register_blueprint(DOCUMENTATION)
    app.register_blueprint(DISTRIBUTION)
    api = flask_smorest.Api()
    api.DEFAULT_ERROR_RESPONSE_NAME = None
    api.init_app(app)
    api.spec.components.security_scheme(
        "token", {"type": "http", "scheme": "bearer", "description": "The admin token."}
    )
    for resource in (JOBS, PLANS, SCHEDULES, SYNC_FILE, REPOSITORIES, IMAGES, CLIENT_CONFIG, HEALTH):
        api.register_blueprint(resource)


def _error_response(error: Exception) -> Response:
    failure = Failure.of(error)
    return distribution_error(failure) if is_distribution_path(request.path) else problem_response(failure)


def _harden(response: Response) -> Response:
    """Tell browsers not to guess types or frame pages, and caches not to keep responses about state."""
    headers = response.headers
    for name, value in _HARDENING.items():
        headers.setdefault(name, value)
    if request.path.startswith("/v1/"):
        headers.setdefault("Cache-Control", "no-store")
    return response
