"""Fetch tokens from token servers, and decide where credentials may be sent.

Credentials are sent to a realm only if it is on the registry's own host, or if it is listed for that registry. A
registry that names any other realm may want to steal a password (CVE-2026-33540). Without credentials only the token
itself is at risk, so any https realm on an allowed address will do.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import unquote_plus, urlencode, urljoin, urlsplit, urlunsplit

from mirror.errors import Denied, ListingDenied, RealmNotAllowed, SourceError, SourceFailed, Unauthorized
from mirror.http.redirects import MAX_REDIRECTS, redirect_location
from mirror.http.response import Response
from mirror.http.transport import Origin, Transport
from mirror.registry.credentials import Credential, to_bytes
from mirror.registry.endpoints import Endpoints
from mirror.registry.response_errors import status_error, token_seconds

KNOWN_REALMS: Final = {
    "docker.io": frozenset({"auth.docker.io"}),
    "docker.elastic.co": frozenset({"docker-auth.elastic.co"}),
    "registry.gitlab.com": frozenset({"gitlab.com"}),
}
"""Token servers on another host than their registry. GHCR, GCR, quay.io, ACR and most others use the same host."""
MAX_TOKEN_REPLY: Final = 1024 * 1024
_LONGEST_SERVICE: Final = 1024
_RESERVED: Final = frozenset({"scope", "account"})
"""Parameters that are dropped from a realm's own query. The registry must not choose the scope or the account."""
_HEADER_VALUE: Final = re.compile(r"[\x21-\x7e]{1,65536}", re.ASCII)
_RELATIVE: Final = re.compile(r"\.{0,2}/[\x21-\x5b\x5d-\x7e]*", re.ASCII)
_NO_URL: Final = "Ask the registry's operator to name the token server by its whole URL, such as 'https://host/token'."
_INSECURE: Final = "MIRROR_INSECURE_REGISTRIES"
_FORM: Final = {"Content-Type": "application/x-www-form-urlencoded"}


@dataclass(frozen=True, slots=True)
class Scope:
    """What a login is for: to pull a repository, or to list the repositories of a registry.

    The credential is the one for ``repository``. For a list that is a prefix of repositories, which may be empty.
    """

    registry: str
    repository: str
    is_catalog: bool = False

    def __str__(self) -> str:
        """Return the scope as a token server expects it (distribution's docs/spec/auth/scope.md)."""
        return "registry:catalog:*" if self.is_catalog else f"repository:{self.repository}:pull"

    def unauthorized(self, *, with_credentials: bool) -> SourceError:
        """Return the error for a registry that wants credentials, or refuses ours."""
        if self.is_catalog:
            return ListingDenied(self.registry, with_credentials=with_credentials)
        return Unauthorized(self.registry, self.repository, with_credentials=with_credentials)

    def denied(self) -> SourceError:
        """Return the error for credentials that do not allow this."""
        if self.is_catalog:
            return ListingDenied(self.registry, with_credentials=True)
        return Denied(self.registry, self.repository)


@dataclass(frozen=True, slots=True)
class Token:
    """A token and the seconds for which it is valid, counted from before its request."""

    text: str = field(repr=False)
    seconds: float


@dataclass(frozen=True, slots=True)
class _TokenRequest:
    """A request to a token server."""

    method: str
    url: str = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)
    body: bytes | None = field(default=None, repr=False)


class TokenServers:
    """Fetches tokens.

    *realms* maps a registry to more hosts that may be sent its credentials.
    """

    def __init__(self, transport: Transport, endpoints: Endpoints, realms: Mapping[str, frozenset[str]]) -> None:
        self._transport = transport
        self._endpoints = endpoints
        self._realms = realms

    def fetch(self, realm: str, service: str, credential: Credential | None, scope: Scope) -> Token:
        """Fetch a token for *scope*.

        *realm* and *service* are those of the challenge. Its scope is ignored. Raises the errors of *scope*,
        RealmNotAllowed, or the error for the token server's reply.
        """
        registry = scope.registry
        url = self._realm(registry, realm, credential)
        wanted = {"scope": str(scope).encode()}
        service_bytes = service.encode("latin-1", "replace")
        if 0 < len(service_bytes) <= _LONGEST_SERVICE:
            wanted["service"] = service_bytes
        request = _token_request(url, wanted, credential)
        with self._send(request, registry, anonymous=credential is None) as response:
            if response.status == 401 or (response.status == 400 and request.method == "POST"):
                raise scope.unauthorized(with_credentials=credential is not None)
            if response.status == 403:
                raise scope.denied()
            if not 200 <= response.status < 300:
                raise status_error(registry, response.status, response.headers, subject="its token server")
            return parse_token(response.read(MAX_TOKEN_REPLY, "a token"), registry)

    def _send(self, request: _TokenRequest, registry: str, *, anonymous: bool) -> Response:
        """Send the request.

        Send it again for redirects within the token server's own origin.
        """
        for _ in range(MAX_REDIRECTS + 1):
            response = self._transport.request(
                request.method, request.url, request.headers, server=registry, body=request.body
            )
            location = redirect_location(response)
            if location is None:
                return response
            response.discard()
            request = _redirected(request, response.status, location, registry, anonymous=anonymous)
        raise SourceFailed(registry, f"its token server redirects more than {MAX_REDIRECTS} times")

    def _realm(self, registry: str, realm: str, credential: Credential | None) -> str:
        """Return the realm as a URL that may be requested. Raises RealmNotAllowed.

        A relative realm belongs to the registry itself.
        """
        base = self._endpoints.base_url(registry)
        try:
            url = urljoin(f"{base}/v2/", realm) if _RELATIVE.fullmatch(realm) else realm
            origin = Origin.of(url)
        except ValueError:
            shown = realm.partition("?")[0]
            raise RealmNotAllowed(registry, shown, "is no https URL with a plain host", hint=_NO_URL) from None
        if not self._endpoints.permits(registry, origin):
            hint = f"If it may be spoken to without TLS, add '{origin.host}:{origin.port}' to {_INSECURE}."
            raise RealmNotAllowed(registry, str(origin), "is not reached over https", hint=hint)
        if credential is not None and not self._may_have_credentials(registry, origin, base):
            raise RealmNotAllowed(registry, str(origin), "is not known to belong to it, so it is not sent credentials")
        return url

    def _may_have_credentials(self, registry: str, realm: Origin, base: str) -> bool:
        """Whether *realm* is on the registry's host, or listed for the registry."""
        if realm.host in {Origin.of(base).host, registry.partition(":")[0]}:
            return True
        named = KNOWN_REALMS.get(registry, frozenset()) | self._realms.get(registry, frozenset())
        return bool({realm.host, f"{realm.host}:{realm.port}"} & named)


def _token_request(realm: str, wanted: Mapping[str, bytes], credential: Credential | None) -> _TokenRequest:
    """Build the exchange of an identity token (OAuth2), else the spec's GET.

    The GET is logged in with Basic if there is a password.
    """
    if credential and credential.identity_token:
        token = to_bytes(credential.identity_token)
        form = {"grant_type": b"refresh_token", "client_id": b"image-mirror", **wanted, "refresh_token": token}
        return _TokenRequest("POST", _with_query(realm, {}), _FORM, urlencode(form).encode())
    account = {"account": to_bytes(credential.username)} if credential else {}
    basic = credential.basic if credential else None
    headers = {"Authorization": basic} if basic else {}
    return _TokenRequest("GET", _with_query(realm, {**wanted, **account}), headers)


def _with_query(url: str, more: Mapping[str, bytes]) -> str:
    """Return *url* with more parameters.

    Its own are kept as they are spelled, except the reserved ones.
    """
    parts = urlsplit(url)
    own = [part for part in re.split("[&;]", parts.query) if part and _parameter(part) not in _RESERVED | set(more)]
    query = "&".join([*own, *([urlencode(more)] if more else [])])
    return urlunsplit((parts.scheme, parts.netloc, parts.path, query, ""))


def _parameter(part: str) -> str:
    return unquote_plus(part.partition("=")[0]).strip().lower()


def _redirected(request: _TokenRequest, status: int, location: str, registry: str, *, anonymous: bool) -> _TokenRequest:
    """Return the request to send after a redirect.

    Raises SourceFailed if it leads to another origin. Method and body are kept, except after a 303. RFC 9110 (15.4)
    lets a client repeat a POST after a 301 or 302, and a token server that only adds a slash means that. A Location
    without a query keeps ours.
    """
    here = Origin.of(request.url)
    try:
        url = urljoin(request.url, location)
        there = Origin.of(url)
    except ValueError:
        raise SourceFailed(registry, "its token server redirects to what is no http or https URL") from None
    upgraded = anonymous and (here.scheme, there.scheme, there.host) == ("http", "https", here.host)
    if there != here and not upgraded:
        raise SourceFailed(
            registry,
            f"its token server {here} redirects to another origin, {there.scheme}://{there}, which is not followed",
        )
    query = urlsplit(request.url).query
    if query and not urlsplit(url).query:
        url = urlunsplit((*urlsplit(url)[:3], query, ""))
    if status == 303 and request.method == "POST":
        return _TokenRequest("GET", url, {})
    return _TokenRequest(request.method, url, request.headers, request.body)


def parse_token(body: bytes, registry: str) -> Token:
    """Parse a token server's reply: the first usable ``token`` or ``access_token``.

    ``issued_at`` is ignored, because it comes from another clock. If a token expires earlier, the registry refuses it,
    and a new one is fetched once.
    """
    try:
        reply: Any = json.loads(body)
    except (ValueError, RecursionError):
        reply = None
    if not isinstance(reply, dict):
        raise SourceFailed(registry, "its token server's answer is not a JSON object")
    for text in (reply.get("token"), reply.get("access_token")):
        if isinstance(text, str) and _HEADER_VALUE.fullmatch(text.strip(" \r\n\t")):
            return Token(text.strip(" \r\n\t"), token_seconds(reply.get("expires_in")))
    raise SourceFailed(registry, "its token server's answer has no usable token")
