"""Asking a token server: where credentials may go, what is asked for, and how its answer is read.

Credentials leave for a realm only after it was found to be the registry's own or one that the registry may name: a
registry that names any other realm is after somebody's password (CVE-2026-33540). Without credentials nothing is at
stake but the token itself, so any https realm on an allowed address will do.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import unquote_plus, urlencode, urljoin, urlsplit, urlunsplit

from mirror.errors import Denied, RealmNotAllowed, SourceFailed, Unauthorized
from mirror.http.transport import Answer, Origin, Transport
from mirror.registry.challenges import Challenge
from mirror.registry.credentials import Credential, to_bytes
from mirror.registry.endpoints import Endpoints
from mirror.registry.redirects import REDIRECTING, REDIRECTS
from mirror.registry.response_errors import error_for_trouble, token_seconds

KNOWN_REALMS: Final = {
    "docker.io": frozenset({"auth.docker.io"}),
    "docker.elastic.co": frozenset({"docker-auth.elastic.co"}),
    "registry.gitlab.com": frozenset({"gitlab.com"}),
}
"""Token servers that are not on their registry's own host; GHCR, GCR, quay.io, ACR and most others are."""
_TOKEN_ANSWER: Final = 1024 * 1024
_LONGEST_SERVICE: Final = 1024
_OURS: Final = frozenset({"scope", "account"})
"""Parameters of a realm's own query that are dropped: for what and for whom we ask is never the registry's choice."""
_HEADER_VALUE: Final = re.compile(r"[\x21-\x7e]{1,65536}", re.ASCII)
_RELATIVE: Final = re.compile(r"\.{0,2}/[\x21-\x5b\x5d-\x7e]*", re.ASCII)
_NO_URL: Final = "Ask the registry's operator to name the token server by its whole URL, such as 'https://host/token'."
_INSECURE: Final = "MIRROR_INSECURE_REGISTRIES"
_FORM: Final = {"Content-Type": "application/x-www-form-urlencoded"}


@dataclass(frozen=True, slots=True)
class Token:
    """A token and the seconds it is good for, counted from before it was asked for."""

    text: str = field(repr=False)
    seconds: float


@dataclass(frozen=True, slots=True)
class _Call:
    """One request to a token server."""

    method: str
    url: str = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)
    body: bytes | None = field(default=None, repr=False)


class TokenServers:
    """Fetches tokens. *realms* maps a registry to more hosts that may be sent its credentials."""

    def __init__(self, transport: Transport, endpoints: Endpoints, realms: Mapping[str, frozenset[str]]) -> None:
        self._transport = transport
        self._endpoints = endpoints
        self._realms = realms

    def fetch(self, challenge: Challenge, credential: Credential | None, registry: str, repository: str) -> Token:
        """Fetch a token to pull *repository*, whatever scope the challenge names.

        Raises Unauthorized, Denied, RealmNotAllowed, or what the token server's failure is.
        """
        realm = self._realm(registry, challenge.parameters.get("realm", ""), credential)
        wanted = {"scope": f"repository:{repository}:pull".encode()}
        service = challenge.parameters.get("service", "").encode("latin-1", "replace")
        if 0 < len(service) <= _LONGEST_SERVICE:
            wanted["service"] = service
        call = _exchange(realm, wanted, credential) if _is_refreshed(credential) else _get(realm, wanted, credential)
        with self._send(call, registry, anonymous=credential is None) as answer:
            if answer.status == 401 or (answer.status == 400 and call.method == "POST"):
                raise Unauthorized(registry, repository, with_credentials=credential is not None)
            if answer.status == 403:
                raise Denied(registry, repository)
            if not 200 <= answer.status < 300:
                raise error_for_trouble(registry, answer.status, answer.headers, what="its token server answered")
            return _token(answer.read(_TOKEN_ANSWER, "a token"), registry)

    def _send(self, call: _Call, registry: str, *, anonymous: bool) -> Answer:
        """Send the call, and again where it is redirected to within the token server's own origin."""
        for _ in range(REDIRECTS + 1):
            answer = self._transport.request(call.method, call.url, call.headers, registry=registry, body=call.body)
            location = answer.headers.get("Location")
            if answer.status not in REDIRECTING or not location:
                return answer
            answer.dismiss()
            call = _redirected(call, answer.status, location, registry, anonymous=anonymous)
        raise SourceFailed(registry, f"its token server redirects more than {REDIRECTS} times")

    def _realm(self, registry: str, realm: str, credential: Credential | None) -> str:
        """The realm as a URL that may be asked; raises RealmNotAllowed.

        A relative realm is one of the registry itself.
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
        """Whether *realm* is on the registry's own host, on whatever port, or is named for the registry."""
        if realm.host in {Origin.of(base).host, registry.partition(":")[0]}:
            return True
        named = KNOWN_REALMS.get(registry, frozenset()) | self._realms.get(registry, frozenset())
        return bool({realm.host, f"{realm.host}:{realm.port}"} & named)


def _is_refreshed(credential: Credential | None) -> bool:
    return credential is not None and bool(credential.identity_token)


def _get(realm: str, wanted: Mapping[str, bytes], credential: Credential | None) -> _Call:
    """The distribution spec's token request, logged in with Basic where there is a password."""
    account = {"account": to_bytes(credential.username)} if credential else {}
    basic = credential.basic if credential else None
    return _Call("GET", _with_query(realm, {**wanted, **account}), {"Authorization": basic} if basic else {})


def _exchange(realm: str, wanted: Mapping[str, bytes], credential: Credential | None) -> _Call:
    """The OAuth2 exchange of an identity token."""
    token = to_bytes(credential.identity_token) if credential else b""
    form = {"grant_type": b"refresh_token", "client_id": b"image-mirror", **wanted, "refresh_token": token}
    return _Call("POST", _with_query(realm, {}), _FORM, urlencode(form).encode())


def _with_query(url: str, more: Mapping[str, bytes]) -> str:
    """*url* with more parameters. Its own stay as they are spelled, but those that we alone decide on are dropped."""
    parts = urlsplit(url)
    own = [part for part in re.split("[&;]", parts.query) if part and _parameter(part) not in _OURS | set(more)]
    query = "&".join([*own, *([urlencode(more)] if more else [])])
    return urlunsplit((parts.scheme, parts.netloc, parts.path, query, ""))


def _parameter(part: str) -> str:
    return unquote_plus(part.partition("=")[0]).strip().lower()


def _redirected(call: _Call, status: int, location: str, registry: str, *, anonymous: bool) -> _Call:
    """The call to make after a redirect; raises SourceFailed where we may not go.

    Method and body stay, but after a 303. RFC 9110 (15.4) lets a client repeat a POST after a 301 or 302, and a token
    server that only adds a slash means just that. A Location without a query keeps ours.
    """
    here = Origin.of(call.url)
    try:
        url = urljoin(call.url, location)
        there = Origin.of(url)
    except ValueError:
        raise SourceFailed(registry, "its token server redirects to what is no http or https URL") from None
    upgraded = anonymous and (here.scheme, there.scheme, there.host) == ("http", "https", here.host)
    if there != here and not upgraded:
        raise SourceFailed(
            registry,
            f"its token server {here} redirects to another origin, {there.scheme}://{there}, which is not followed",
        )
    query = urlsplit(call.url).query
    if query and not urlsplit(url).query:
        url = urlunsplit((*urlsplit(url)[:3], query, ""))
    if status == 303 and call.method == "POST":
        return _Call("GET", url, {})
    return _Call(call.method, url, call.headers, call.body)


def _token(body: bytes, registry: str) -> Token:
    """Read a token server's answer: the first usable of ``token`` and ``access_token``.

    ``issued_at`` is ignored: it is told by another clock. A token that ends earlier is refused, and fetched anew once.
    """
    try:
        answer: Any = json.loads(body)
    except (ValueError, RecursionError):
        answer = None
    if not isinstance(answer, dict):
        raise SourceFailed(registry, "its token server's answer is not a JSON object")
    for text in (answer.get("token"), answer.get("access_token")):
        if isinstance(text, str) and _HEADER_VALUE.fullmatch(text.strip(" \r\n\t")):
            return Token(text.strip(" \r\n\t"), token_seconds(answer.get("expires_in")))
    raise SourceFailed(registry, "its token server's answer has no usable token")
