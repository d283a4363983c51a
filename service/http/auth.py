"""Authentication: the admin token for everything, and pull tokens for reading ``/v2``.

A token is sent as Bearer. Under ``/v2`` it may also be the password of Basic, because ``docker login`` sends it so.

An address with too many wrong tokens is refused for some seconds. A right token that is too long to be guessed passes
even then. Otherwise clients that share its NAT or proxy could lock its owner out.
"""

from __future__ import annotations

import hmac
import ipaddress
import math
import os
import secrets
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock
from time import monotonic
from typing import TYPE_CHECKING, Final

from flask import request
from werkzeug.datastructures import Authorization

from mirror.settings import InvalidSettings, Settings, is_loopback, token_problem
from service.http.problems import PullTokenRefused, PullTokenRequired, TokenRequired, TooManyFailures

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

_OPEN: Final = frozenset({"health", "documentation", "api-docs"})
"""Blueprints that need no token: they show nothing about images."""
UNGUESSABLE: Final = 32
"""From this many characters on, a token cannot be guessed at any rate that a server can handle."""
FILE_NAME: Final = "admin-token"
_TOKEN_BYTES: Final = 32
_READS: Final = frozenset({"GET", "HEAD"})
_ADMIN_CHALLENGE: Final = 'Bearer realm="image-mirror"'
BURST: Final = 10
"""Failures in a row that an address may have. People mistype, and a fleet rolls out a new token node by node."""
SECONDS_EACH: Final = 6.0
"""Seconds after which one failure is forgotten."""
_MOST_ADDRESSES: Final = 10_000
_IPV6_NETWORK: Final = 64
"""The prefix length of one customer's network: its owner can use every address in it."""


class RequestAuthenticator:
    """Checks the token of each request. Safe to share between threads."""

    def __init__(self, settings: Settings, token: str, failures: FailureLimit | None = None) -> None:
        self._anonymous_pull = settings.anonymous_pull
        self._pull_challenge = f'Basic realm="{settings.public_host}"'
        self._admin = token
        self._tokens = (token, *settings.pull_token)
        self._failures = failures or FailureLimit()

    def require_token(self) -> None:
        """Raise a RequestError unless the current request may go on.

        A blueprint is closed unless it is listed as open, so that a new one needs the token by default. Under ``/v1``
        a path that does not exist needs it too, so that the answer does not show which paths exist.
        Raises TokenRequired, PullTokenRefused or TooManyFailures.
        """
        if is_distribution_path(request.path):
            if self._anonymous_pull:
                return
            token = self._checked(_sent_token(basic=True), PullTokenRequired(self._pull_challenge))
            may_pull = _changes_nothing()
        elif _is_closed():
            token, may_pull = self._checked(_sent_token(basic=False), TokenRequired(_ADMIN_CHALLENGE)), False
        else:
            return
        if token != self._admin and not may_pull:  # counts as no failure, because the token is right
            raise PullTokenRefused(_ADMIN_CHALLENGE)

    def may_pull(self, environ: WSGIEnvironment) -> bool:
        """Return whether a request may certainly read ``/v2``, without counting anything.

        False if `require_token` has more to check: a token that is short, wrong or missing.
        """
        if self._anonymous_pull:
            return True
        token = self._find(_token_in(environ.get("HTTP_AUTHORIZATION", ""), basic=True))
        return token is not None and len(token) >= UNGUESSABLE

    def _checked(self, sent: str, refusal: TokenRequired) -> str:
        """Return the token that was sent, if it is one of ours. Raises *refusal* or TooManyFailures.

        A request without a token does not count as a guess: clients ask for the challenge that way.
        """
        if not sent:
            raise refusal
        address = request.environ.get("REMOTE_ADDR", "")  # of the connection: headers of proxies are not trusted
        token = self._find(sent)
        if token is not None and len(token) >= UNGUESSABLE:
            return token
        if seconds := self._failures.wait(address):
            raise TooManyFailures(seconds)
        if token is None:
            self._failures.note(address)
            raise refusal
        return token

    def _find(self, sent: str) -> str | None:
        """Return the token that equals *sent*. All are compared, so that the time does not tell which one it is."""
        given, found = sent.encode("utf-8", "surrogatepass"), None
        for token in self._tokens:
            if hmac.compare_digest(given, token.encode()):
                found = token
        return found


def is_distribution_path(path: str) -> bool:
    """Return whether *path* belongs to the OCI distribution API."""
    return path == "/v2" or path.startswith("/v2/")


def _changes_nothing() -> bool:
    """Return whether the request reads, or no route takes it. Then the answer is an error that explains why."""
    return request.method in _READS or request.url_rule is None


def _is_closed() -> bool:
    if request.url_rule is None:
        return request.path.startswith("/v1/")
    return request.blueprint not in _OPEN


def _sent_token(*, basic: bool) -> str:
    """Return the token of the current request, empty without one."""
    return _token_in(request.headers.get("Authorization", ""), basic=basic)


def _token_in(authorization: str, *, basic: bool) -> str:
    """Return the token in the header *authorization*, empty without one.

    A Bearer token is used as it stands, because ours may contain ``=``. Werkzeug reads such a token as parameters, as
    RFC 9110, 11.4 says. RFC 6750, 2.1 defines another grammar.
    """
    scheme, _, rest = authorization.partition(" ")
    if scheme.lower() == "bearer":
        return rest.strip(" \t")
    given = Authorization.from_header(authorization) if basic else None
    return (given.password or "") if given is not None and given.type == "basic" else ""


def admin_token(settings: Settings) -> str:
    """Return the configured token, or the one in the data directory. That one is made (mode 0600) at the first call.

    Raises InvalidSettings if the service listens beyond loopback, where a token is never made, and if the file cannot
    be read or written.
    """
    if settings.admin_token is not None:
        return settings.admin_token
    if not is_loopback(settings.host):
        raise InvalidSettings(
            {"MIRROR_ADMIN_TOKEN": [f"must be set when MIRROR_HOST is {settings.host}, not loopback"]}
        )
    path = settings.data_dir / FILE_NAME
    try:
        if not path.exists():
            _create(path, secrets.token_urlsafe(_TOKEN_BYTES))
        token = path.read_text(encoding="ascii", errors="replace").strip()
    except OSError as error:
        reason = f"cannot keep the admin token: {error.strerror}; or set MIRROR_ADMIN_TOKEN"
        raise InvalidSettings({"MIRROR_DATA_DIR": [reason]}) from None
    if problem := token_problem(token):
        raise InvalidSettings({"MIRROR_DATA_DIR": [f"holds an {FILE_NAME} that cannot be used: it {problem}"]})
    replace(settings, admin_token=token).require_own_pull_tokens()
    return token


def _create(path: Path, token: str) -> None:
    """Write the whole file or nothing. If another process was first, its token stays."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    draft = path.with_name(f".{FILE_NAME}-{secrets.token_hex(8)}")
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(handle, "w", encoding="ascii") as file:
            file.write(f"{token}\n")
        path.hardlink_to(draft)
    except FileExistsError:
        return
    finally:
        draft.unlink()


@dataclass(slots=True)
class _Failures:
    count: float
    since: float


class FailureLimit:
    """A leaky bucket of wrong tokens for each address. The address that failed longest ago makes room for a new one.

    Each process counts for itself, in a table of bounded size. ADR 19 says why not in Redis and not by a library.
    """

    def __init__(self, clock: Callable[[], float] = monotonic, *, most_addresses: int = _MOST_ADDRESSES) -> None:
        self._clock = clock
        self._most = most_addresses
        self._failures: OrderedDict[str, _Failures] = OrderedDict()
        self._lock = Lock()

    def wait(self, address: str) -> int:
        """Return the seconds until the address may fail again, 0 if it may now."""
        with self._lock:
            over = self._count(_network_of(address)) - (BURST - 1)
        return math.ceil(over * SECONDS_EACH) if over > 0 else 0

    def note(self, address: str) -> None:
        """Count a failure. A refused attempt is not counted: otherwise a client that goes on would never get in."""
        network = _network_of(address)
        with self._lock:
            self._failures[network] = _Failures(self._count(network) + 1, self._clock())
            self._failures.move_to_end(network)
            if len(self._failures) > self._most:
                self._failures.popitem(last=False)

    def _count(self, network: str) -> float:
        found = self._failures.get(network)
        return max(0.0, found.count - (self._clock() - found.since) / SECONDS_EACH) if found else 0.0


def _network_of(address: str) -> str:
    """Return the address, or for IPv6 its /64. An IPv4 address that is written as IPv6 counts as the IPv4 address."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped:
            return str(parsed.ipv4_mapped)
        return str(ipaddress.ip_network((parsed, _IPV6_NETWORK), strict=False))
    return str(parsed)
