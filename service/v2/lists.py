"""Tags and repositories, in pages ("Listing Tags" of the distribution spec; ``_catalog`` is Docker's)."""

from __future__ import annotations

from typing import Final

from flask import Response, jsonify, request, url_for

from service.core import core
from service.http.bodies import require_single
from service.http.request_errors import PageSizeInvalid

LARGEST_PAGE: Final = 1000
"""Also what a client gets that asks for more, or for all; the Link header leads on."""
_LONGEST_NUMBER: Final = 18


def tags(repository: str) -> Response:
    """Raises RepositoryNotHeld, CatalogRebuilding, PageSizeInvalid or ParametersRepeated."""
    size = _size()
    found, following = core().index.tags(repository, limit=size, after=_last())
    response = jsonify({"name": repository, "tags": found})
    return _leading_on(response, size, following, path=f"{repository}/tags/list")


def repositories() -> Response:
    """Raises CatalogRebuilding, PageSizeInvalid or ParametersRepeated."""
    size = _size()
    found, following = core().index.repositories(limit=size, after=_last())
    response = jsonify({"repositories": [entry.name for entry in found]})
    return _leading_on(response, size, following, path="_catalog")


def _leading_on(response: Response, size: int, following: str | None, *, path: str) -> Response:
    if following is not None:
        url = url_for("distribution.read", path=path, n=size, last=following)  # of the mirror as the client reached it
        response.headers["Link"] = f'<{url}>; rel="next"'
    return response


def _size() -> int:
    require_single(request, ("n", "last"))
    text = request.args.get("n")
    if text is None:
        return LARGEST_PAGE
    if not (text.isascii() and text.isdigit()):
        raise PageSizeInvalid(text)
    return LARGEST_PAGE if len(text) > _LONGEST_NUMBER else min(int(text), LARGEST_PAGE)


def _last() -> str:
    return request.args.get("last", "")
