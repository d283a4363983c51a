"""Logging in: when a request carries an Authorization, and which.

A registry is asked without one until it wants one. Most say so with a 401 and a challenge. Some answer 404 or 403 to
whoever is not logged in, or 401 without a challenge: where credentials are configured, these are asked for a challenge
at ``/v2/``. What was learned is remembered for each registry.

A token is for one registry, credential, repository and action; never a union of scopes, which outgrows header limits.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from time import monotonic
from typing import Final

from mirror.errors import SourceFailed, Unauthorized
from mirror.http.transport import Answer, Transport
from mirror.registry.challenges import Challenge, names_nothing, parse_challenges
from mirror.registry.credentials import Credential
from mirror.registry.endpoints import Endpoints
from mirror.registry.redirects import Redirects
from mirror.registry.response_errors import error_for_trouble
from mirror.registry.token_server import TokenServers

_CREDENTIAL_SECONDS: Final = 60.0
_OPEN_SECONDS: Final = 600.0
"""How long a registry whose ``/v2/`` wants no login is not asked again for one."""
_UNNAMED: Final = Challenge("basic")
"""What is tried where a registry wants a login and names no scheme at all.

Nothing is risked: the registry could have had the password by asking for it.
"""

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


@dataclass(slots=True)
class _Registry:
    """What is known for all repositories of a registry.

    ``challenge`` is answered with every request. ``hidden`` is one that only ``/v2/`` tells: it is answered after a 403
    or 404, until a login with it was accepted.
    """

    lock: threading.Lock = field(default_factory=threading.Lock)
    challenge: Challenge | None = None
    hidden: Challenge | None = None
    open_until: float = 0.0


class Authenticator:
    """Gives every request its Authorization. Safe to share between threads."""

    def __init__(
        self, transport: Transport, endpoints: Endpoints, ask: Ask, realms: Mapping[str, frozenset[str]] | None = None
    ) -> None:
        self._transport = transport
        self._endpoints = endpoints
        self._redirects = Redirects(transport, endpoints)
        self._tokens = TokenServers(transport, endpoints, realms or {})
        self._ask = ask
        self._lock = threading.Lock()
        self._sessions: dict[tuple[str, str], _Session] = {}
        self._registries: dict[str, _Registry] = {}

    def authorization(self, registry: str, repository: str) -> str | None:
        """The header to send at once: None until the registry has asked for one, so that open registries see none."""
        challenge = self._registry(registry).challenge
        if challenge is None:
            return None
        session = self._session(registry, repository)
        with self._transport.holding(session.lock, registry):
            return self._renewed(session, challenge, registry, repository)

    def answer(self, registry: str, repository: str, refusal: Answer, refused: str | None) -> str:
        """The header to send after *refusal*, a 401, to a request that carried *refused*.

        Raises Unauthorized, Denied, RealmNotAllowed, CredentialsUnavailable, or what the token server's failure is.
        """
        session = self._session(registry, repository)
        with self._transport.holding(session.lock, registry):
            if session.authorization == refused:
                session.good_until = 0.0  # else another thread has renewed it meanwhile
            challenge = self._challenge(session, refusal, registry, repository)
            authorization = self._renewed(session, challenge, registry, repository)
            if authorization is None:
                raise Unauthorized(registry, repository, with_credentials=session.credential is not None)
            self._registry(registry).challenge = challenge
            return authorization

    def hidden_login(self, registry: str, repository: str) -> str | None:
        """The header to try after a 403 or 404 to a request without one; None if the answer stands.

        It stands where no credentials are configured, and where the registry's ``/v2/`` wants no login either.
        Raises what `answer` does.
        """
        session = self._session(registry, repository)
        with self._transport.holding(session.lock, registry):
            if self._credential(session, registry, repository) is None:
                return None
            challenge = self._hidden_challenge(session, registry)
            return self._renewed(session, challenge, registry, repository) if challenge else None

    def accepted(self, registry: str) -> None:
        """Note that a hidden login was not refused: from now on it goes with every request."""
        known = self._registry(registry)
        known.challenge = known.challenge or known.hidden

    def refusal(self, registry: str, repository: str) -> Unauthorized:
        """The error for a 401 to a request that carried the best we have."""
        session = self._session(registry, repository)
        return Unauthorized(registry, repository, with_credentials=session.credential is not None)

    def login(self, registry: str, repository: str) -> str | None:
        """Whom the registry knows us as, as far as it has asked; None while we are anonymous."""
        if self._registry(registry).challenge is None:
            return None
        credential = self._session(registry, repository).credential
        return credential.username if credential else None

    def _session(self, registry: str, repository: str) -> _Session:
        with self._lock:
            return self._sessions.setdefault((registry, repository), _Session())

    def _registry(self, registry: str) -> _Registry:
        with self._lock:
            return self._registries.setdefault(registry, _Registry())

    def _credential(self, session: _Session, registry: str, repository: str) -> Credential | None:
        now = monotonic()
        if now >= session.credential_until:
            session.credential = self._ask(registry, repository)
            session.credential_until = now + _CREDENTIAL_SECONDS
        return session.credential

    def _renewed(self, session: _Session, challenge: Challenge, registry: str, repository: str) -> str | None:
        """The session's header, made anew if it is no longer good; None for Basic without a password."""
        now = monotonic()
        if now < session.good_until:
            return session.authorization
        credential = self._credential(session, registry, repository)
        session.authorization, session.good_until = None, 0.0
        if credential and credential.registry_token:
            session.authorization = f"Bearer {credential.registry_token}"
            session.good_until = now + _CREDENTIAL_SECONDS
        elif challenge.scheme == "basic":
            session.authorization = credential.basic if credential else None
            session.good_until = now + _CREDENTIAL_SECONDS
        else:
            token = self._tokens.fetch(challenge, credential, registry, repository)
            session.authorization = f"Bearer {token.text}"
            session.good_until = now + token.seconds - min(10.0, token.seconds / 10)
        return session.authorization

    def _challenge(self, session: _Session, refusal: Answer, registry: str, repository: str) -> Challenge:
        """What to answer a 401 with. Where it names no scheme we know and there are credentials, ``/v2/`` is asked."""
        credential = self._credential(session, registry, repository)
        lines = _header_lines(refusal)
        challenge = _choose(lines, credential)
        if challenge is None and credential:
            root = self._root(registry) or []
            challenge = _choose(root, credential)
            if challenge is None and names_nothing([*lines, *root]) and credential.basic:
                challenge = _UNNAMED
        if challenge is None:
            raise SourceFailed(registry, "it wants a login and names no scheme that is known")
        return challenge

    def _hidden_challenge(self, session: _Session, registry: str) -> Challenge | None:
        """What ``/v2/`` wants, asked at most once in a while by all threads together; None if it wants nothing."""
        known = self._registry(registry)
        with self._transport.holding(known.lock, registry):
            if known.challenge or known.hidden:
                return known.challenge or known.hidden
            if monotonic() < known.open_until:
                return None
            root = self._root(registry)
            if root is not None:
                known.hidden = _choose(root, session.credential) or (_UNNAMED if names_nothing(root) else None)
            if known.hidden is None:
                known.open_until = monotonic() + _OPEN_SECONDS
            return known.hidden

    def _root(self, registry: str) -> list[str] | None:
        """The lines of the challenge at ``/v2/``; None if that answers anything but 401. Trouble is raised."""
        url = f"{self._endpoints.base_url(registry)}/v2/"
        try:
            followed = self._redirects.follow("GET", url, {}, None, registry)
        except SourceFailed:
            return None  # it redirects to where we do not go, or to what lets nobody in
        answer = followed.answer
        answer.dismiss()
        if answer.status == 429 or answer.status >= 500:
            raise error_for_trouble(registry, answer.status, answer.headers, what="/v2/ answered")
        return _header_lines(answer) if answer.status == 401 else None


def _header_lines(answer: Answer) -> list[str]:
    """Each line of the challenge by itself, so that a damaged one harms no other."""
    return list(answer.response.headers.getlist("WWW-Authenticate"))


def _choose(lines: Sequence[str], credential: Credential | None) -> Challenge | None:
    """Bearer if the registry offers it with a realm, else Basic. A registry token needs no offer."""
    challenges = parse_challenges(*lines)
    bearer = (c for c in challenges if c.scheme == "bearer" and c.parameters.get("realm"))
    basic = (c for c in challenges if c.scheme == "basic")
    token_alone = _UNNAMED if credential and credential.registry_token else None
    return next(bearer, None) or next(basic, None) or token_alone
