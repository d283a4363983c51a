"""Send one request to a registry: log in, follow redirects, translate the status."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from typing import Final

from mirror.errors import MirrorError
from mirror.http.deadlines import shared_deadline
from mirror.http.failures import wants_tls
from mirror.http.redirects import FinalResponse, Redirects
from mirror.http.response import Response
from mirror.oci.reference import RepositoryPattern, SourceName
from mirror.registry.auth import Authenticator
from mirror.registry.endpoints import Endpoints
from mirror.registry.response_errors import status_error
from mirror.registry.token_server import Scope

_HIDING: Final = frozenset({403, 404})
_TLS_REFUSALS: Final = frozenset({400, 403, 426, 497})
_TLS_WANTED: Final = re.compile(
    rb"http request to an https server|plain http request was sent to https|speaking plain http to an ssl|requires? tls"
)
"""What Go, nginx, Apache and Tomcat reply to plain HTTP, in lower case."""
_REFUSAL_SIZE: Final = 64 * 1024


class AuthorizedRequests:
    """Sends requests below ``/v2/<repository>/`` of a registry. Those for a wildcard are below ``/v2/``."""

    def __init__(self, endpoints: Endpoints, redirects: Redirects, auth: Authenticator) -> None:
        self._endpoints = endpoints
        self._redirects = redirects
        self._auth = auth

    def send(self, method: str, source: SourceName, path: str, headers: Mapping[str, str]) -> FinalResponse:
        """Send the request, log in if the registry asks for it, and follow redirects.

        The response may have any status. Everything together has one deadline, which also bounds `Response.read`.
        """
        with shared_deadline():
            return self._send(method, _scope(source), path, headers)

    def _send(self, method: str, scope: Scope, path: str, headers: Mapping[str, str]) -> FinalResponse:
        registry = scope.registry
        below = "/v2" if scope.is_catalog else f"/v2/{scope.repository}"
        url = f"{self._endpoints.base_url(registry)}{below}/{path}"
        follow = partial(self._redirects.follow, server=registry, permits=partial(self._endpoints.permits, registry))
        authorization = self._auth.authorization(scope)
        final = follow(method, url, headers, authorization)
        if final.response.status == 401:
            final.response.discard()
            authorization = self._auth.log_in(scope, final.response, authorization)
            return follow(method, url, headers, authorization)
        if final.response.status in _HIDING and authorization is None and final.target is None:
            if (login := self._login_without_challenge(method, scope, final.response)) is None:
                return final
            final.response.discard()
            final = follow(method, url, headers, login)
            if final.response.status != 401:
                self._auth.login_accepted(registry)
        return final

    def _login_without_challenge(self, method: str, scope: Scope, response: Response) -> str | None:
        """Return the Authorization to try after a 403 or 404, which may hide the image.

        After a HEAD, a failed login is not raised: the GET that follows meets it too.
        """
        try:
            return self._auth.log_in_without_challenge(scope)
        except MirrorError as error:
            if method == "HEAD" and not error.retryable:
                return None
            response.close()
            raise

    def require_status(
        self,
        response: Response,
        source: SourceName,
        unknown: MirrorError,
        accepted: tuple[int, ...] = (200,),
        *,
        what: str = "",
    ) -> None:
        """Raise the error for a status that is not *accepted*: *unknown* for a 404.

        *what* names what was requested.
        """
        if response.status in accepted:
            return
        if _says_it_wants_tls(response):
            raise wants_tls(response.server, response.url)
        if response.status == 401:
            raise self._auth.unauthorized(_scope(source))
        if response.status == 403:
            raise _scope(source).denied()
        if response.status == 404:
            raise unknown
        raise status_error(source.registry, response.status, response.headers, subject="it", what=what)


def _scope(source: SourceName) -> Scope:
    is_catalog = isinstance(source, RepositoryPattern) and source.is_wildcard
    return Scope(source.registry, source.repository, is_catalog)


def _says_it_wants_tls(response: Response) -> bool:
    """Whether the server refused the request because it was plain HTTP."""
    if response.status not in _TLS_REFUSALS or not response.url.startswith("http://"):
        return False
    try:
        return bool(_TLS_WANTED.search(response.read_quickly(_REFUSAL_SIZE, "a refusal").lower()))
    except MirrorError:
        return False
