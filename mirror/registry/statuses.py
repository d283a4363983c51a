"""HTTP statuses that mean trouble, as errors; and how long a registry asks us to wait."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final

from mirror.errors import MirrorError, RateLimited, SourceFailed

DEFAULT_WAIT: Final = 60.0
LONGEST_WAIT: Final = 6 * 3600.0
"""Docker Hub's pull limit has windows of six hours; a registry that asks for more is asked again after that."""


class ServerFailed(SourceFailed):
    """A 5xx, or what amounts to one: the same request may succeed in a moment."""

    def __init__(self, registry: str, reason: str, *, overloaded: bool = False) -> None:
        super().__init__(registry, reason)
        self.overloaded = overloaded


def error_for_trouble(registry: str, status: int, headers: Mapping[str, str], *, what: str) -> MirrorError:
    """RateLimited for a 429, ServerFailed for a 5xx, SourceFailed for what the protocol does not foresee."""
    if status == 429:
        asked = asked_wait(headers)
        return RateLimited(registry, DEFAULT_WAIT if asked is None else asked, asked=asked is not None)
    if status >= 500:
        return ServerFailed(registry, f"{what} {status}", overloaded=status == 503)
    return SourceFailed(registry, f"{what} {status}, which was not expected")


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
