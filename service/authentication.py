"""Who may ask: the admin token as Bearer, and for ``docker`` also as the password of Basic."""

from __future__ import annotations

import hmac
from typing import Final

from flask import Flask, request

from service.distribution import answers as distribution
from service.request_errors import TokenRequired
from service.services import services

_OPEN: Final = frozenset({"health", "documentation", "api-docs"})
"""Blueprints that anybody may read: they tell nothing about the images."""


def register(app: Flask) -> None:
    app.before_request(require_token)


def require_token() -> None:
    """Raise TokenRequired unless the request may go on.

    What is not open is closed: a new blueprint needs the token without having to say so. Under ``/v1`` even a path
    that does not exist does, so that nobody learns the paths.
    """
    held = services()
    if distribution.is_below(request.path):
        if not (held.settings.anonymous_pull or _has_token(held.admin_token, basic=True)):
            raise TokenRequired(f'Basic realm="{held.settings.public_host}"')
    elif _is_closed() and not _has_token(held.admin_token, basic=False):
        raise TokenRequired('Bearer realm="image-mirror"')


def _is_closed() -> bool:
    if request.url_rule is None:
        return request.path.startswith("/v1/")
    return request.blueprint not in _OPEN


def _has_token(token: str, *, basic: bool) -> bool:
    given = request.authorization
    if given is None:
        return False
    offered = given.token if given.type == "bearer" else given.password if basic and given.type == "basic" else None
    return hmac.compare_digest((offered or "").encode("utf-8", "surrogatepass"), token.encode())
