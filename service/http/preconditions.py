"""Read ``If-Match`` and ``If-None-Match`` of a change (RFC 9110, 13.1)."""

from __future__ import annotations

from collections.abc import Callable

from flask import Request

from mirror.oci.digest import Digest


def precondition(request: Request) -> Callable[[Digest | int | None], bool]:
    """Return a function that says whether a change is allowed, given what the name shows at that moment.

    That is the digest of an image, or the version of a schedule. None says that there is nothing. An ETag is that
    value in quotes. A weak one never satisfies If-Match. A header without a usable value matches nothing, so a mistyped
    one stops the change.
    """
    wanted = request.if_match if "If-Match" in request.headers else None
    unwanted = request.if_none_match if "If-None-Match" in request.headers else None

    def allowed(current: Digest | int | None) -> bool:
        shown = None if current is None else str(current)
        if wanted is not None and (shown is None or not wanted.contains(shown)):
            return False
        return unwanted is None or shown is None or not unwanted.contains_weak(shown)

    return allowed


def etag(value: Digest | str | int) -> str:
    return f'"{value}"'
