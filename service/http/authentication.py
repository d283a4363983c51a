"""Who may ask: the admin token as Bearer, and for ``docker`` also as the password of Basic.

An address whose attempts fail too often is refused for seconds (`failure_limit`). A right token that is too long to be
guessed passes even then: nobody behind the same NAT or proxy can lock its owner out.
"""

from __future__ import annotations

import hmac
from typing import Final

from flask import Flask, request

from service.core import Service, service
from service.http.request_errors import TokenRequired, TooManyFailures
from service.v2 import answers as distribution

_OPEN: Final = frozenset({"health", "documentation", "api-docs"})
"""Blueprints that anybody may read: they tell nothing about the images."""
UNGUESSABLE: Final = 32
"""Characters from which on nobody finds a token by trying, at any rate that a server answers."""


def register(app: Flask) -> None:
    app.before_request(require_token)


def require_token() -> None:
    """Raise TokenRequired or TooManyFailures unless the request may go on.

    What is not open is closed: a new blueprint needs the token without having to say so. Under ``/v1`` even a path
    that does not exist does, so that nobody learns the paths.
    """
    held = service()
    if distribution.is_below(request.path):
        if not held.core.settings.anonymous_pull:
            _require(held, _offered(basic=True), f'Basic realm="{held.core.settings.public_host}"')
    elif _is_closed():
        _require(held, _offered(basic=False), 'Bearer realm="image-mirror"')


def _is_closed() -> bool:
    if request.url_rule is None:
        return request.path.startswith("/v1/")
    return request.blueprint not in _OPEN


def _require(held: Service, offered: str, challenge: str) -> None:
    """An attempt without a token is no guess: it is how clients ask for the challenge."""
    if not offered:
        raise TokenRequired(challenge)
    address = request.environ.get("REMOTE_ADDR", "")  # of the connection: no header is believed
    is_right = hmac.compare_digest(offered.encode("utf-8", "surrogatepass"), held.admin_token.encode())
    if is_right and len(held.admin_token) >= UNGUESSABLE:
        return
    if seconds := held.failures.wait(address):
        raise TooManyFailures(seconds)
    if not is_right:
        held.failures.note(address)
        raise TokenRequired(challenge)


def _offered(*, basic: bool) -> str:
    """The token of the request, empty if there is none. A Bearer token is taken as it stands: ours may have any ``=``.

    Werkzeug reads one with a ``=`` inside as parameters, as RFC 9110, 11.4 would, had RFC 6750, 2.1 no other grammar.
    """
    scheme, _, rest = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return rest.strip(" \t")
    given = request.authorization
    return (given.password or "") if basic and given is not None and given.type == "basic" else ""
