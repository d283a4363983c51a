"""The one route of ``/v2``: repositories have slashes, so the path is read by `request_path`, not by Flask's router."""

from __future__ import annotations

from typing import Final

from flask import Blueprint, Response, jsonify, request
from werkzeug.exceptions import NotFound

from mirror.errors import StorageUnavailable
from service.core import service
from service.v2 import answers, blobs, lists, manifests, request_path

_PATIENCE: Final = 15.0
"""Seconds until a pull learns that S3 answers none of those before it."""
DISTRIBUTION: Final = Blueprint("distribution", __name__, static_folder=None)


@DISTRIBUTION.route("/v2", methods=["GET"], provide_automatic_options=False)
@DISTRIBUTION.route("/v2/", methods=["GET"], provide_automatic_options=False)
def base() -> Response:
    """That this is the API, and that the client may use it ("Determining Support")."""
    return jsonify({})


@DISTRIBUTION.route("/v2/_catalog", methods=["GET"], provide_automatic_options=False)
def catalog() -> Response:
    return lists.repositories()


@DISTRIBUTION.route("/v2/<path:path>", methods=["GET"], provide_automatic_options=False)
def read(path: str) -> Response:
    asked = request_path.parse(path)
    if asked is None:
        raise NotFound
    if not service().lookups.acquire(timeout=_PATIENCE):
        raise StorageUnavailable("be asked", "it answers no pull")
    try:
        return _answer(asked)
    finally:
        service().lookups.release()


def _answer(asked: request_path.Asked) -> Response:
    if asked.kind == "manifests":
        return manifests.manifest(asked.repository, asked.name)
    if asked.kind == "blobs":
        return blobs.blob(asked.repository, asked.name)
    return lists.tags(asked.repository)


@DISTRIBUTION.after_app_request
def name_the_api(response: Response) -> Response:
    """Also on what was refused before it came to a view."""
    if answers.is_below(request.path):
        name, value = answers.API_VERSION
        response.headers[name] = value
    return response
