"""Read ``If-Match`` and ``If-None-Match`` of a change as a `Precondition` of the catalog (RFC 9110, 13.1)."""

from __future__ import annotations

from flask import Request

from mirror.catalog.tag_change import Precondition
from mirror.oci.digest import Digest


def precondition(request: Request) -> Precondition:
    """Return a function that says whether a change is allowed, given the digest that the name has at that moment.

    ETags are quoted digests. A header without a usable value matches nothing, so a mistyped one stops the change.
    """
    wanted = request.if_match if "If-Match" in request.headers else None
    unwanted = request.if_none_match if "If-None-Match" in request.headers else None

    def allowed(current: Digest | None) -> bool:
        shown = None if current is None else str(current)
        if wanted is not None and (shown is None or not wanted.contains(shown)):
            return False
        return unwanted is None or shown is None or not unwanted.contains_weak(shown)

    return allowed


def etag(digest: Digest | str) -> str:
    return f'"{digest}"'
