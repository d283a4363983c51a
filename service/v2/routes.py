"""The routes of ``/v2``. Repositories have slashes, so `parse_path` reads the path instead of Flask's router.

Lists come in pages ("Listing Tags" of the distribution spec). ``_catalog`` is Docker's. Errors have the form of the
distribution spec.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, Literal

from flask import Blueprint, Response, json, jsonify, request, url_for
from werkzeug.exceptions import NotFound

from mirror.errors import InvalidReference, RepositoryNotHeld, StorageUnavailable
from mirror.oci.reference import repository_problem
from service.core import core
from service.http.auth import is_distribution_path
from service.http.bodies import require_single
from service.http.connections import time_limit
from service.http.problems import Failure, PageSizeInvalid
from service.v2 import blobs, manifests, referrers
from service.v2.names import candidates, namespace

LARGEST_PAGE: Final = 1000
"""Also the size of the page for a client that asks for more, or for all. The Link header leads to the next page."""
_LONGEST_NUMBER: Final = 18
_ANY_NUMBER: Final = 10**_LONGEST_NUMBER
"""What a longer number is read as. Python refuses to parse thousands of digits."""
LOOKUP_SECONDS: Final = 15.0
"""Seconds until the response to a pull begins, or fails. An S3 that hangs costs no more."""
API_VERSION: Final = {"Docker-Distribution-Api-Version": "registry/2.0"}
"""docker takes an answer without this header for one of another service."""
_READ_ONLY: Final = (
    "this registry is read-only; copy images into it with POST /v1/jobs",
    "/docs describes POST /v1/jobs; an image that no registry has must be pushed to one first.",
)
"""What 'docker push' shows. Clients print the message, and few of them the hint."""
_UNSUPPORTED: Final = frozenset({"NOT_FOUND", "METHOD_NOT_ALLOWED"})

DISTRIBUTION: Final = Blueprint("distribution", __name__, static_folder=None)
Kind = Literal["manifests", "blobs", "tags", "referrers"]
_KINDS: Final[dict[str, Kind]] = {
    "manifests": "manifests",
    "blobs": "blobs",
    "tags": "tags",
    "referrers": "referrers",
}


class NameNeverHeld(InvalidReference):
    """The path has a malformed name. Nothing can be held under it, so it is not found ("Pulling manifests").

    Not for referrers. A 404 would say that the registry has no such API ("Listing Referrers").
    """

    status = 404


@dataclass(frozen=True, slots=True)
class Target:
    """What a path names: a valid repository, and an unparsed tag or digest. For tags ``name`` is ``list``."""

    repository: str
    kind: Kind
    name: str


def parse_path(path: str) -> Target | None:
    """Parse a path below ``/v2/``. Return None for a path that the API does not have.

    A repository may be called ``team/blobs/app``, so the path is read from its end. The last part is a tag or a digest,
    the one before it is the kind, and the rest is the repository. Raises InvalidReference for an impossible repository.
    """
    head, _, name = path.rpartition("/")
    repository, _, last = head.rpartition("/")
    kind = _KINDS.get(last)
    if kind is None or not name or (kind == "tags" and name != "list"):
        return None
    if problem := repository_problem(repository):
        raise (InvalidReference if kind == "referrers" else NameNeverHeld)(repository, problem)
    return Target(repository, kind, name)


@DISTRIBUTION.route("/v2", methods=["GET"], provide_automatic_options=False)
@DISTRIBUTION.route("/v2/", methods=["GET"], provide_automatic_options=False)
def base() -> Response:
    """Show that this is the API, and that the client may use it ("Determining Support")."""
    return jsonify({})


@DISTRIBUTION.route("/v2/_catalog", methods=["GET"], provide_automatic_options=False)
def catalog() -> Response:
    """List repositories. Raises CatalogRebuilding, PageSizeInvalid or ParametersRepeated."""
    size = _page_size()
    found, following = core().index.repositories(limit=size, after=_last())
    response = jsonify({"repositories": [entry.name for entry in found]})
    return _with_next_page(response, size, following, path="_catalog")


@DISTRIBUTION.route("/v2/<path:path>", methods=["GET"], provide_automatic_options=False)
def read(path: str) -> Response:
    """Serve a manifest, a blob, the tags of a repository, or the referrers of a manifest."""
    target = parse_path(path)
    if target is None:
        raise NotFound
    registry = namespace(request)
    repositories = candidates(target.repository, registry, core().settings.dockerd_registry)
    with time_limit(LOOKUP_SECONDS, _too_slow):
        response = _read(target, repositories)
    if registry is not None:
        response.headers["OCI-Namespace"] = registry
    return response


def _too_slow() -> StorageUnavailable:
    return StorageUnavailable("answer a pull", f"it took more than {LOOKUP_SECONDS:.0f} s")


def _read(target: Target, repositories: Sequence[str]) -> Response:
    if target.kind == "manifests":
        return manifests.manifest(repositories, target.name)
    if target.kind == "blobs":
        return blobs.blob(repositories, target.name)
    if target.kind == "referrers":
        path = f"{target.repository}/referrers/{target.name}"
        return referrers.referrers(repositories, path, target.name, _asked_size())
    return _tags(target, repositories)


def _tags(target: Target, repositories: Sequence[str]) -> Response:
    """List tags. Raises RepositoryNotHeld, CatalogRebuilding, PageSizeInvalid or ParametersRepeated."""
    size = _page_size()
    for repository in repositories:
        with suppress(RepositoryNotHeld):
            found, following = core().index.tags(repository, limit=size, after=_last())
            response = jsonify({"name": target.repository, "tags": found})
            return _with_next_page(response, size, following, path=f"{target.repository}/tags/list")
    raise RepositoryNotHeld(repositories[0])


def _with_next_page(response: Response, size: int, following: str | None, *, path: str) -> Response:
    """Add the link to the next page, relative to the address that the client used."""
    if following is not None:
        url = url_for("distribution.read", path=path, n=size, last=following, ns=namespace(request))
        response.headers["Link"] = f'<{url}>; rel="next"'
    return response


def _page_size() -> int:
    asked = _asked_size()
    return LARGEST_PAGE if asked is None else min(asked, LARGEST_PAGE)


def _asked_size() -> int | None:
    """Return the ``n`` of the query, None if there is none. Raises PageSizeInvalid or ParametersRepeated."""
    require_single(request, ("n", "last"))
    text = request.args.get("n")
    if text is None:
        return None
    if not (text.isascii() and text.isdigit()):
        raise PageSizeInvalid(text)
    return int(text) if len(text) <= _LONGEST_NUMBER else _ANY_NUMBER


def _last() -> str:
    return request.args.get("last", "")


def distribution_error(failure: Failure) -> Response:
    """Return *failure* as "Error Codes" of the distribution spec says. Wrong input is 400 there."""
    status = 400 if failure.status == 422 else failure.status
    code = "UNSUPPORTED" if failure.code in _UNSUPPORTED else failure.code
    message, hint = _READ_ONLY if failure.code == "METHOD_NOT_ALLOWED" else (failure.message, failure.hint)
    error = {"code": code, "message": message, "detail": {"hint": hint}}
    return Response(json.dumps({"errors": [error]}), status, failure.headers, content_type="application/json")


@DISTRIBUTION.after_app_request
def add_api_version(response: Response) -> Response:
    """Name the API on every answer under ``/v2``, also where a request was refused before it reached a view."""
    if is_distribution_path(request.path):
        response.headers.update(API_VERSION)
    return response
