"""Log in: decide which requests carry an Authorization, and which one.

A registry receives none until it asks for one. Most registries ask with a 401 and a challenge in ``WWW-Authenticate``.
Some reply 404 or 403 to an anonymous client, or 401 without a challenge. If credentials are configured, such a registry
is asked for a challenge at ``/v2/``. What was learned is remembered for each registry.

A token is for one registry, credential and scope: to pull one repository, or to list the registry's repositories. It
never combines scopes, which would outgrow the limits of headers.
"""

from __future__ import annotations

import string
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from time import monotonic
from typing import Final

from mirror.errors import SourceError, SourceFailed
from mirror.http.redirects import Redirects
from mirror.http.response import Response
from mirror.http.transport import Transport
from mirror.registry.credentials import Credential
from mirror.registry.endpoints import Endpoints
from mirror.registry.response_errors import status_error
from mirror.registry.token_server import Scope, TokenServers

LONGEST_CHALLENGE: Final = 8192
"""Characters in all lines of ``WWW-Authenticate`` together. A longer header is not read at all."""
_CREDENTIAL_SECONDS: Final = 60.0
_OPEN_SECONDS: Final = 600.0
"""Seconds for which a registry whose ``/v2/`` asks for no login is not asked again."""
_WORD: Final = frozenset(string.ascii_letters + string.digits + "!#$%&'*+.^_`|~-")
_BLANK: Final = frozenset(" \t")
_BETWEEN: Final = frozenset(" \t,;")

CredentialLookup = Callable[[str, str], Credential | None]
"""Takes a registry and a repository. Returns the credential to log in with, None to stay anonymous."""


@dataclass(frozen=True, slots=True)
class Challenge:
    """One scheme and its parameters.

    The scheme and the names of parameters are in lower case.
    """

    scheme: str
    parameters: Mapping[str, str] = field(default_factory=dict)


_UNNAMED: Final = Challenge("basic")
"""The challenge assumed for a registry that demands a login and names no scheme.

Nothing is risked: the registry would have received the password if it had asked for Basic.
"""


@dataclass(slots=True)
class _Session:
    """What is known for one scope.

    The lock is held while a token is fetched, so that many threads fetch one.
    """

    lock: threading.Lock = field(default_factory=threading.Lock)
    authorization: str | None = field(default=None, repr=False)
    valid_until: float = 0.0
    credential: Credential | None = None
    credential_until: float = 0.0


@dataclass(slots=True)
class _Registry:
    """What is known for all repositories of a registry.

    ``challenge`` is met with every request. ``hidden`` was found only at ``/v2/``. It is met after a 403 or 404, until
    a login for it was accepted.
    """

    lock: threading.Lock = field(default_factory=threading.Lock)
    challenge: Challenge | None = None
    hidden: Challenge | None = None
    open_until: float = 0.0


class Authenticator:
    """Provides the Authorization of every request. Safe to share between threads."""

    def __init__(
        self,
        transport: Transport,
        endpoints: Endpoints,
        redirects: Redirects,
        tokens: TokenServers,
        find_credential: CredentialLookup,
    ) -> None:
        self._transport = transport
        self._endpoints = endpoints
        self._redirects = redirects
        self._tokens = tokens
        self._find_credential = find_credential
        self._lock = threading.Lock()
        self._sessions: dict[Scope, _Session] = {}
        self._registries: dict[str, _Registry] = {}

    def authorization(self, scope: Scope) -> str | None:
        """Return the header to send at once. None until the registry has asked for one."""
        challenge = self._registry(scope.registry).challenge
        if challenge is None:
            return None
        session = self._session(scope)
        with self._transport.holding(session.lock, scope.registry):
            return self._renewed(session, challenge, scope)

    def log_in(self, scope: Scope, response: Response, refused: str | None) -> str:
        """Return the header to send after a 401 to a request that carried *refused*.

        Raises the errors of *scope*, RealmNotAllowed, CredentialsUnavailable, or the token server's error.
        """
        session = self._session(scope)
        with self._transport.holding(session.lock, scope.registry):
            if session.authorization == refused:
                session.valid_until = 0.0  # else another thread has renewed it meanwhile
            challenge = self._challenge(session, response, scope)
            authorization = self._renewed(session, challenge, scope)
            if authorization is None:
                raise self.unauthorized(scope)
            self._registry(scope.registry).challenge = challenge
            return authorization

    def log_in_without_challenge(self, scope: Scope) -> str | None:
        """Return the header to try after a 403 or 404 to an anonymous request.

        None if that response is final. It is final if no credentials are configured, or if the registry's ``/v2/`` asks
        for no login either. Raises what `log_in` raises.
        """
        session = self._session(scope)
        with self._transport.holding(session.lock, scope.registry):
            if self._credential(session, scope) is None:
                return None
            challenge = self._hidden_challenge(session, scope.registry)
            return self._renewed(session, challenge, scope) if challenge else None

    def login_accepted(self, registry: str) -> None:
        """Record that a login without a challenge was accepted.

        From now on it is sent with every request.
        """
        known = self._registry(registry)
        known.challenge = known.challenge or known.hidden

    def unauthorized(self, scope: Scope) -> SourceError:
        """Return the error for a 401 to a request that carried the best login we have."""
        return scope.unauthorized(with_credentials=self._session(scope).credential is not None)

    def username(self, scope: Scope) -> str | None:
        """Return the user that the registry knows us as.

        None while it has asked for no login.
        """
        if self._registry(scope.registry).challenge is None:
            return None
        credential = self._session(scope).credential
        return credential.username if credential else None

    def _session(self, scope: Scope) -> _Session:
        with self._lock:
            return self._sessions.setdefault(scope, _Session())

    def _registry(self, registry: str) -> _Registry:
        with self._lock:
            return self._registries.setdefault(registry, _Registry())

    def _credential(self, session: _Session, scope: Scope) -> Credential | None:
        now = monotonic()
        if now >= session.credential_until:
            session.credential = self._find_credential(scope.registry, scope.repository)
            session.credential_until = now + _CREDENTIAL_SECONDS
        return session.credential

    def _renewed(self, session: _Session, challenge: Challenge, scope: Scope) -> str | None:
        """Return the session's header, renewed if it has expired.

        None for Basic without a password.
        """
        now = monotonic()
        if now < session.valid_until:
            return session.authorization
        credential = self._credential(session, scope)
        session.authorization, session.valid_until = None, 0.0
        if credential and credential.registry_token:
            session.authorization = f"Bearer {credential.registry_token}"
            session.valid_until = now + _CREDENTIAL_SECONDS
        elif challenge.scheme == "basic":
            session.authorization = credential.basic if credential else None
            session.valid_until = now + _CREDENTIAL_SECONDS
        else:
            realm, service = challenge.parameters.get("realm", ""), challenge.parameters.get("service", "")
            token = self._tokens.fetch(realm, service, credential, scope)
            session.authorization = f"Bearer {token.text}"
            session.valid_until = now + token.seconds - min(10.0, token.seconds / 10)
        return session.authorization

    def _challenge(self, session: _Session, response: Response, scope: Scope) -> Challenge:
        """Return the challenge of a 401.

        If it names no known scheme and there are credentials, ask ``/v2/``.
        """
        credential = self._credential(session, scope)
        lines = response.headers.lines("WWW-Authenticate")
        challenge = _choose(lines, credential)
        if challenge is None and credential:
            root = self._root_challenge(scope.registry) or []
            challenge = _choose(root, credential)
            if challenge is None and is_blank([*lines, *root]) and credential.basic:
                challenge = _UNNAMED
        if challenge is None:
            raise SourceFailed(scope.registry, "it wants a login and names no scheme that is known")
        return challenge

    def _hidden_challenge(self, session: _Session, registry: str) -> Challenge | None:
        """Return the challenge of ``/v2/``, None if it has none.

        All threads together ask once in ten minutes.
        """
        known = self._registry(registry)
        with self._transport.holding(known.lock, registry):
            if known.challenge or known.hidden:
                return known.challenge or known.hidden
            if monotonic() < known.open_until:
                return None
            root = self._root_challenge(registry)
            if root is not None:
                known.hidden = _choose(root, session.credential) or (_UNNAMED if is_blank(root) else None)
            if known.hidden is None:
                known.open_until = monotonic() + _OPEN_SECONDS
            return known.hidden

    def _root_challenge(self, registry: str) -> list[str] | None:
        """Return the lines of the challenge at ``/v2/``, None if its status is not 401.

        Raises for a 429 or 5xx.
        """
        url = f"{self._endpoints.base_url(registry)}/v2/"
        permits = partial(self._endpoints.permits, registry)
        try:
            final = self._redirects.follow("GET", url, {}, None, server=registry, permits=permits)
        except SourceFailed:
            return None  # it redirects to where we may not go, or where a login is demanded
        response = final.response
        response.discard()
        if response.status == 429 or response.status >= 500:
            raise status_error(registry, response.status, response.headers, subject="/v2/")
        return response.headers.lines("WWW-Authenticate") if response.status == 401 else None


def parse_challenges(*lines: str) -> list[Challenge]:
    """Return every challenge in ``WWW-Authenticate`` (RFC 9110, section 11).

    What cannot be parsed is skipped. Each line is parsed by itself, so a damaged one harms no other. The parser looks
    at each character a fixed number of times. So a hostile header costs no more than an honest one of the same length.
    """
    if sum(map(len, lines)) > LONGEST_CHALLENGE:
        return []
    return [challenge for line in lines for challenge in _ChallengeParser(line).challenges()]


def is_blank(lines: Iterable[str]) -> bool:
    """Whether ``WWW-Authenticate`` is absent or blank: it names no scheme at all."""
    return not any(line.strip() for line in lines)


def _choose(lines: Sequence[str], credential: Credential | None) -> Challenge | None:
    """Choose Bearer if the registry offers it with a realm, else Basic.

    A registry token needs no offer.
    """
    challenges = parse_challenges(*lines)
    bearer = (c for c in challenges if c.scheme == "bearer" and c.parameters.get("realm"))
    basic = (c for c in challenges if c.scheme == "basic")
    token_alone = _UNNAMED if credential and credential.registry_token else None
    return next(bearer, None) or next(basic, None) or token_alone


class _ChallengeParser:
    """Parses one line from left to right, without ever going back."""

    def __init__(self, line: str) -> None:
        self._line = line
        self._at = 0

    def challenges(self) -> list[Challenge]:
        """Parse the line.

        A word that is followed by ``=`` is a parameter of the last scheme. Any other word is a scheme. The exception is
        a word that follows a scheme without a comma: that is credentials (token68), and is skipped.
        """
        found: list[tuple[str, dict[str, str]]] = []
        after_scheme = False  # the last word was a scheme, and no comma followed it
        while self._at < len(self._line):
            after_scheme = "," not in self._run(_BETWEEN) and after_scheme
            word = self._run(_WORD)
            if self._is_odd(word):
                self._rest_of_word()
            elif self._is_parameter():
                value = self._value()
                if found and value is not None:
                    found[-1][1][word.lower()] = value
                after_scheme = False
            elif word and not after_scheme:
                found.append((word.lower(), {}))
                after_scheme = True
        return [Challenge(scheme, parameters) for scheme, parameters in found]

    def _is_odd(self, word: str) -> bool:
        """Whether the next character is neither the end of a word nor the ``=`` after it."""
        if self._at == len(self._line):
            return False
        following = self._line[self._at]
        return following not in _BETWEEN and (following != "=" or not word)

    def _is_parameter(self) -> bool:
        """Whether ``=`` is next, perhaps after blanks."""
        self._run(_BLANK)
        return self._peek() == "="

    def _value(self) -> str | None:
        """Read the value after ``=``. None for a quoted string that is never closed."""
        self._at += 1
        self._run(_BLANK)
        return self._quoted() if self._peek() == '"' else self._rest_of_word()

    def _quoted(self) -> str | None:
        """Read a quoted string, without the backslashes that escape its characters."""
        self._at += 1
        characters: list[str] = []
        while self._at < len(self._line):
            character = self._line[self._at]
            self._at += 1
            if character == '"':
                return "".join(characters)
            if character == "\\" and self._at < len(self._line):
                character = self._line[self._at]
                self._at += 1
            characters.append(character)
        return None

    def _run(self, characters: frozenset[str]) -> str:
        """Read as many of *characters* as follow."""
        start = self._at
        while self._at < len(self._line) and self._line[self._at] in characters:
            self._at += 1
        return self._line[start : self._at]

    def _rest_of_word(self) -> str:
        """Read up to the next blank or comma."""
        start = self._at
        while self._at < len(self._line) and self._line[self._at] not in " \t,":
            self._at += 1
        return self._line[start : self._at]

    def _peek(self) -> str:
        return self._line[self._at] if self._at < len(self._line) else ""
