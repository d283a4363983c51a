"""Logging in: the distribution spec's token flow, and Basic where a registry wants it.

A token is for one registry, credential, repository and action; never a union of scopes, which outgrows header limits.
Credentials leave for a realm only after it was found to be the registry's own or one that the registry may name: a
registry that names any other realm is after somebody's password (CVE-2026-33540). Token calls follow no redirect.
"""

from __future__ import annotations

import base64
import json
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from time import monotonic
from typing import Any, Final
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from mirror.errors import Denied, RealmNotAllowed, SourceFailed, Unauthorized
from mirror.registry.challenges import Challenge, parse_challenges
from mirror.registry.credentials import Credential
from mirror.registry.endpoints import Endpoints
from mirror.registry.statuses import error_for_trouble
from mirror.registry.transport import Answer, Origin, Transport

KNOWN_REALMS: Final = {
    "docker.io": frozenset({"auth.docker.io"}),
    "docker.elastic.co": frozenset({"docker-auth.elastic.co"}),
    "registry.gitlab.com": frozenset({"gitlab.com"}),
}
"""Token servers that are not on their registry's own host; GHCR, GCR, quay.io, ACR and most others are."""
_TOKEN_ANSWER: Final = 1024 * 1024
_DEFAULT_SECONDS: Final = 60.0
"""What a token without ``expires_in`` is good for (distribution spec, token authentication)."""
_CREDENTIAL_SECONDS: Final = 60.0
_HEADER_VALUE: Final = re.compile(r"[\x21-\x7e]{1,65536}", re.ASCII)
_SCOPE: Final = re.compile(r"repository:([A-Za-z0-9._/-]{1,512}):pull", re.ASCII)

Ask = Callable[[str, str], Credential | None]
"""From a registry and a repository to what to log in with, None to stay anonymous."""


@dataclass(slots=True)
class _Session:
    """What is known for one repository. The lock is held while a token is fetched, so that many threads fetch one."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    authorization: str | None = field(default=None, repr=False)
    good_until: float = 0.0
    credential: Credential | None = None
    credential_until: float = 0.0


class Authenticator:
    """Gives every request its Authorization. Safe to share between threads."""

    def __init__(
        self, transport: Transport, endpoints: Endpoints, ask: Ask, realms: dict[str, frozenset[str]] | None = None
    ) -> None:
        self._transport = transport
        self._endpoints = endpoints
        self._ask = ask
        self._realms = realms or {}
        self._lock = threading.Lock()
        self._sessions: dict[tuple[str, str], _Session] = {}
        self._challenges: dict[str, Challenge] = {}

    def authorization(self, registry: str, repository: str) -> str | None:
        """The header to send at once: None until the registry has asked for one, so that open registries see none."""
        challenge = self._challenges.get(registry)
        if challenge is None:
            return None
        session = self._session(registry, repository)
        with session.lock:
            if monotonic() >= session.good_until:
                self._renew(session, challenge, registry, repository)
            return session.authorization

    def answer(self, registry: str, repository: str, header: str, refused: str | None) -> str:
        """The header to send after a 401 with the challenge *header* to a request with *refused*.

        Raises Unauthorized, Denied, RealmNotAllowed, CredentialsUnavailable, or what the token server's failure is.
        """
        session = self._session(registry, repository)
        with session.lock:
            fresh = monotonic() < session.good_until
            if fresh and session.authorization and session.authorization != refused:
                return session.authorization  # another thread has renewed it meanwhile
            challenge = _choose(header)
            if challenge is None:
                raise SourceFailed(registry, "it wants a login and names no scheme that is known")
            self._renew(session, challenge, registry, repository)
            self._challenges[registry] = challenge
            if session.authorization is None:
                raise Unauthorized(registry, repository, with_credentials=False)
            return session.authorization

    def refusal(self, registry: str, repository: str) -> Unauthorized:
        """The error for a 401 to a request that carried the best we have."""
        session = self._session(registry, repository)
        return Unauthorized(registry, repository, with_credentials=session.credential is not None)

    def login(self, registry: str, repository: str) -> str | None:
        """Whom the registry knows us as, as far as it has asked; None while we are anonymous."""
        credential = self._session(registry, repository).credential
        return credential.username if credential else None

    def _session(self, registry: str, repository: str) -> _Session:
        with self._lock:
            return self._sessions.setdefault((registry, repository), _Session())

    def _renew(self, session: _Session, challenge: Challenge, registry: str, repository: str) -> None:
        now = monotonic()
        if now >= session.credential_until:
            session.credential = self._ask(registry, repository)
            session.credential_until = now + _CREDENTIAL_SECONDS
        session.authorization, session.good_until = None, 0.0
        if challenge.scheme == "basic":
            session.authorization = _basic(session.credential)
            session.good_until = now + _CREDENTIAL_SECONDS
            return
        token, seconds = self._fetch(challenge, session.credential, registry, repository)
        session.authorization = f"Bearer {token}"
        session.good_until = now + seconds - min(10.0, seconds / 10)

    def _fetch(
        self, challenge: Challenge, credential: Credential | None, registry: str, repository: str
    ) -> tuple[str, float]:
        """A token and the seconds it is good for, counted from before it was asked for."""
        realm = challenge.parameters.get("realm", "")
        self._require_realm(registry, realm)
        scope = challenge.parameters.get("scope", "")
        wanted = {"scope": scope if _is_scope_of(scope, repository) else f"repository:{repository}:pull"}
        if service := challenge.parameters.get("service"):
            wanted["service"] = service
        with self._request(realm, wanted, credential, registry) as answer:
            if answer.status == 401:
                raise Unauthorized(registry, repository, with_credentials=credential is not None)
            if answer.status == 403:
                raise Denied(registry, repository)
            if answer.status != 200:
                raise error_for_trouble(registry, answer.status, answer.headers, what="its token server answered")
            return _token(answer.read(_TOKEN_ANSWER, "a token"), registry)

    def _request(self, realm: str, wanted: dict[str, str], credential: Credential | None, registry: str) -> Answer:
        if credential and credential.identity_token:
            form = {"grant_type": "refresh_token", "client_id": "image-mirror", **wanted}
            body = urlencode({**form, "refresh_token": credential.identity_token}).encode()
            headers = {"Content-Type": "application/x-www-form-urlencoded"}
            return self._transport.request("POST", realm, headers, registry=registry, body=body)
        basic = _basic(credential)
        headers = {"Authorization": basic} if basic else {}
        account = {"account": credential.username} if credential else {}
        return self._transport.request("GET", _with_query(realm, {**wanted, **account}), headers, registry=registry)

    def _require_realm(self, registry: str, realm: str) -> None:
        try:
            origin = Origin.of(realm)
        except ValueError:
            raise RealmNotAllowed(registry, realm.partition("?")[0], "is no https URL with a plain host") from None
        if not self._endpoints.permits(registry, origin):
            raise RealmNotAllowed(registry, str(origin), "is not reached over https")
        own = {Origin.of(self._endpoints.base_url(registry)).host, registry.partition(":")[0]}
        named = KNOWN_REALMS.get(registry, frozenset()) | self._realms.get(registry, frozenset())
        if origin.host not in own and not {origin.host, str(origin)} & named:
            raise RealmNotAllowed(registry, str(origin), "is not known to belong to it")


def _choose(header: str) -> Challenge | None:
    """Bearer if the registry offers it with a realm, else Basic."""
    challenges = parse_challenges(header)
    bearer = (c for c in challenges if c.scheme == "bearer" and c.parameters.get("realm"))
    basic = (c for c in challenges if c.scheme == "basic")
    return next(bearer, None) or next(basic, None)


def _is_scope_of(scope: str, repository: str) -> bool:
    """Whether a challenge's scope is to pull this repository, perhaps under a proxy's prefix; else we say what we want.

    A registry must not have us fetch it a token that may push, or one for another repository.
    """
    match = _SCOPE.fullmatch(scope)
    return match is not None and f"/{match[1]}".endswith(f"/{repository}")


def _basic(credential: Credential | None) -> str | None:
    if credential is None or credential.identity_token:
        return None
    return "Basic " + base64.b64encode(f"{credential.username}:{credential.password}".encode()).decode()


def _with_query(url: str, more: dict[str, str]) -> str:
    parts = urlsplit(url)
    query = urlencode([*parse_qsl(parts.query, keep_blank_values=True), *more.items()])
    return urlunsplit((parts.scheme, parts.netloc, parts.path, query, ""))


def _token(body: bytes, registry: str) -> tuple[str, float]:
    try:
        answer: Any = json.loads(body)
        token = answer.get("token") or answer.get("access_token")
        seconds = answer.get("expires_in")
    except (ValueError, AttributeError, RecursionError):
        raise SourceFailed(registry, "its token server's answer is not a JSON object") from None
    if not isinstance(token, str) or not _HEADER_VALUE.fullmatch(token):
        raise SourceFailed(registry, "its token server's answer has no usable token")
    known = isinstance(seconds, int | float) and not isinstance(seconds, bool) and 0 < seconds < 10**9
    return token, float(seconds) if known else _DEFAULT_SECONDS
