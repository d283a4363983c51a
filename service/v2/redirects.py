"""Redirect pulls of known blobs before Flask sees the request.

The pull of an image is one manifest and a redirect for each layer. Flask takes a third of the CPU of such a redirect.
So a redirect that needs nothing but this process' memory is made here, with the same headers as `blobs.blob` makes it.
A test compares the two. Every other request goes on to Flask.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Final

from mirror.errors import MirrorError
from mirror.oci.digest import Digest
from service.core import Service
from service.http import request_id
from service.v2.names import candidates
from service.v2.routes import parse_path

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

_PREFIX: Final = "/v2/"
_CONTENT_TYPE: Final = "text/html; charset=utf-8"
"""Flask's type of a response without a body."""


class KnownRedirects:
    """Wraps the application of *service*. *headers* are those of every response under ``/v2``."""

    def __init__(self, application: WSGIApplication, service: Service, headers: Mapping[str, str]) -> None:
        self._application = application
        self._auth = service.auth
        self._pulls = service.pulls
        self._dockerd_registry = service.core.settings.dockerd_registry
        self._headers = list(headers.items())

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        found = self._known_blob(environ)
        if found is None:
            return self._application(environ, start_response)
        digest, location = found
        own = [
            ("Content-Type", _CONTENT_TYPE),
            ("Content-Length", "0"),
            ("Docker-Content-Digest", str(digest)),
            ("Location", location),
            (request_id.HEADER, request_id.of(environ)),
        ]
        start_response("307 TEMPORARY REDIRECT", own + self._headers)
        return []

    def _known_blob(self, environ: WSGIEnvironment) -> tuple[Digest, str] | None:
        """Return a blob that is known to be held, and that the client may read, with its URL. Sends no request.

        None for anything else, also for what is an error: Flask's handlers explain it.
        """
        path = environ["PATH_INFO"]
        if environ["REQUEST_METHOD"] != "GET" or not path.startswith(_PREFIX) or environ.get("QUERY_STRING"):
            return None
        if "HTTP_IF_NONE_MATCH" in environ or not self._auth.may_pull(environ):
            return None
        try:
            target = parse_path(path.removeprefix(_PREFIX))
            if target is None or target.kind != "blobs":
                return None
            digest = Digest.parse(target.name)
            repositories = candidates(target.repository, None, self._dockerd_registry)
            return (digest, self._pulls.url(digest)) if self._pulls.is_known(repositories, digest) else None
        except MirrorError:
            return None
