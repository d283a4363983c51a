"""HTTP statuses that mean trouble, as errors; and every time that a registry names, within bounds.

Nothing else in the client reads a number of seconds from an answer. A hostile or broken registry could park a task for
decades else, and fill Redis with keys that never expire.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final

from mirror.errors import LONGEST_REST, MirrorError, RateLimited, SourceFailed

DEFAULT_WAIT: Final = 60.0
LONGEST_WAIT: Final = 6 * 3600.0
"""Seconds of a Retry-After: Docker Hub's pull limit has windows of six hours. Who asks for more is asked then."""
LONGEST_WINDOW: Final = LONGEST_REST
"""Seconds of a pull limit's window: the longest that is known is a day."""
LONGEST_TOKEN: Final = 12 * 3600.0
"""Seconds for which a token is used without a new one. One that is refused earlier is renewed at once."""
DEFAULT_TOKEN: Final = 60.0
"""What a token without a usable ``expires_in`` is good for (distribution spec, token authentication)."""
_OVERLOADED: Final = frozenset({502, 503, 504})
"""Of a proxy or a server that is overloaded: with Retry-After they are waited for (RFC 9110, 15.6.4)."""


class ServerFailed(SourceFailed):
    """A 5xx, or what amounts to one: the same request may succeed in a moment."""

    def __init__(self, registry: str, reason: str, *, overloaded: bool = False) -> None:
        super().__init__(registry, reason)
        self.overloaded = overloaded


def error_for_trouble(
    registry: str, status: int, headers: Mapping[str, str], *, what: str, asked_for: str = ""
) -> MirrorError:
    """The error that a status means; *asked_for* names what was requested.

    RateLimited for a 429, and for a 502, 503 or 504 that says how long to wait. ServerFailed for any other 5xx.
    SourceFailed for what the protocol does not foresee.
    """
    wait = asked_wait(headers)
    reason = f"{what} {status} for {asked_for}" if asked_for else f"{what} {status}"
    if status == 429:
        return RateLimited(registry, DEFAULT_WAIT if wait is None else wait, asked=wait is not None)
    if status in _OVERLOADED and wait:
        return RateLimited(registry, wait, answered=status)
    if status >= 500:
        return ServerFailed(registry, reason, overloaded=status == 503)
    return SourceFailed(registry, f"{reason}, which was not expected")


def token_seconds(expires_in: object) -> float:
    """How long a token may be used, from ``expires_in``: a number, or one in a string, or anything."""
    known = isinstance(expires_in, int | float | str) and not isinstance(expires_in, bool)
    try:
        seconds = float(expires_in) if known else 0.0  # type: ignore[arg-type]  # mypy forgets what is known
    except ValueError:
        return DEFAULT_TOKEN
    except OverflowError:
        return LONGEST_TOKEN
    return min(seconds, LONGEST_TOKEN) if seconds > 0 else DEFAULT_TOKEN


def window_seconds(text: str) -> float:
    """How long a pull limit's window is, from decimal digits."""
    return min(float(text), LONGEST_WINDOW)


def asked_wait(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait, from Retry-After in either of its forms (RFC 9110, 10.2.3), within bounds; None without one."""
    text = headers.get("Retry-After", "").strip()
    if text.isascii() and text.isdecimal():
        return min(float(text[:10]), LONGEST_WAIT)
    try:
        moment = parsedate_to_datetime(text)
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return min(max((moment - datetime.now(UTC)).total_seconds(), 0.0), LONGEST_WAIT)
