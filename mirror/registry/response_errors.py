"""Errors for HTTP statuses, and durations that a registry names, within bounds.

Nothing else in the client reads a number of seconds from a response. Otherwise a hostile or broken registry could park
a task for decades, and fill Redis with keys that never expire.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final

from mirror.errors import LONGEST_REST, MirrorError, RateLimited, SourceFailed
from mirror.http.failures import ServerFailed

DEFAULT_WAIT: Final = 60.0
LONGEST_WAIT: Final = 6 * 3600.0
"""Seconds of a Retry-After. Docker Hub's pull limit has windows of six hours. A longer wait is cut to this."""
LONGEST_WINDOW: Final = LONGEST_REST
"""Seconds of a pull limit's window. The longest known one is a day."""
LONGEST_TOKEN: Final = 12 * 3600.0
"""Seconds for which a token is used without a new one. A token that is refused earlier is renewed at once."""
DEFAULT_TOKEN: Final = 60.0
"""Seconds for which a token without a usable ``expires_in`` is valid (distribution spec, token authentication)."""
_OVERLOADED: Final = frozenset({502, 503, 504})
"""Statuses of an overloaded proxy or server. With Retry-After they are waited for (RFC 9110, 15.6.4)."""


def status_error(
    registry: str, status: int, headers: Mapping[str, str], *, subject: str, what: str = ""
) -> MirrorError:
    """Return the error for a status. *subject* returned it, and *what* was requested.

    RateLimited for a 429, and for a 502, 503 or 504 that says how long to wait. ServerFailed for any other 5xx.
    SourceFailed for every status that the protocol does not expect.
    """
    wait = asked_wait(headers)
    reason = f"{subject} answered {status} for {what}" if what else f"{subject} answered {status}"
    if status == 429:
        return RateLimited(registry, DEFAULT_WAIT if wait is None else wait, asked=wait is not None)
    if status in _OVERLOADED and wait:
        return RateLimited(registry, wait, answered=status)
    if status >= 500:
        return ServerFailed(registry, reason, overloaded=status == 503)
    return SourceFailed(registry, f"{reason}, which was not expected")


def token_seconds(expires_in: object) -> float:
    """Return the seconds for which a token may be used.

    ``expires_in`` may be a number, a string, or anything.
    """
    known = isinstance(expires_in, int | float | str) and not isinstance(expires_in, bool)
    try:
        seconds = float(expires_in) if known else 0.0  # type: ignore[arg-type]  # mypy does not narrow by `known`
    except ValueError:
        return DEFAULT_TOKEN
    except OverflowError:
        return LONGEST_TOKEN
    return min(seconds, LONGEST_TOKEN) if seconds > 0 else DEFAULT_TOKEN


def window_seconds(text: str) -> float:
    """Return the seconds of a pull limit's window, from decimal digits."""
    return min(float(text), LONGEST_WINDOW)


def asked_wait(headers: Mapping[str, str]) -> float | None:
    """Return the seconds of Retry-After (RFC 9110, 10.2.3), None without one.

    It may be a number or a date. The result is at most `LONGEST_WAIT`.
    """
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
